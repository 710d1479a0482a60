"""Files below a root: nothing is reached through a link, whatever takes the place of what was there."""

import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.checksums import digest as checksum
from lading.checksums.digest import FileDigests, digest_file, digest_files
from lading.core.opening import Replaced, Root, SeenFile, descriptor_folder, raise_descriptor_limit
from tests.conftest import need_program

SHIM = r"""
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
/* A kernel before 5.6, or a container: openat2 answers by $OPENAT2_ERRNO. */
long syscall(long number, ...) {
    (void)number;
    return errno = atoi(getenv("OPENAT2_ERRNO")), -1;
}
"""


@pytest.fixture(params=["openat2", "components"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Root]:
    """A release with one file, and a secret beside it."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "release/a/b").mkdir(parents=True)
    (tmp_path / "release/a/b/file").write_bytes(b"content")
    with Root(tmp_path / "release") as root:
        if request.param == "components":
            root._by_components = True
        elif root._by_components:
            pytest.skip("no openat2 here")
        yield root


def read(descriptor: int) -> bytes:
    with open(descriptor, "rb") as stream:
        return stream.read()


def make(kind: str, path: Path, secret: Path) -> None:
    """Put something else in a file's place."""
    path.unlink(missing_ok=True)
    if kind == "a symbolic link":
        path.symlink_to(secret)
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.fspath(path))


def test_a_file_is_opened_held_and_looked_at_by_either_name(root: Root) -> None:
    for name in ("a/b/file", f"{root.path}/a/b/file"):
        assert read(root.open(name)) == b"content"
        assert root.status(name).st_size == 7
        held = root.hold(name)
        shown = f"{descriptor_folder()}/{held}"
        assert subprocess.run(["cat", shown], capture_output=True, check=True).stdout == b"content"
        os.close(held)
    assert stat.S_ISDIR(root.status("a/b").st_mode)
    assert os.path.samestat(root.status(""), os.stat(root.path))
    directory = root.directory("a/b")
    assert os.listdir(directory) == ["file"]
    os.close(directory)
    directory = root.directory("")
    assert os.listdir(directory) == ["a"]
    os.close(directory)


@pytest.mark.parametrize("kind", ["a symbolic link", "a directory", "a pipe", "a socket"])
def test_what_is_no_file_any_more_is_told(root: Root, tmp_path: Path, kind: str) -> None:
    make(kind, tmp_path / "release/a/b/file", tmp_path / "secret")
    for way in (root.open, root.hold, lambda name: digest_file(name, root=root)):
        with pytest.raises(Replaced) as raised:
            way("a/b/file")
        assert raised.value.strerror == f"it is {kind} now"
    assert not stat.S_ISREG(root.status("a/b/file").st_mode)
    (found,) = digest_files([("a/b/file", 7)], root=root)
    assert isinstance(found, OSError)
    assert found.strerror == f"it is {kind} now"


def test_a_link_in_a_directorys_place_is_not_gone_through(root: Root, tmp_path: Path) -> None:
    other = tmp_path / "other/b"
    other.mkdir(parents=True)
    (other / "file").write_bytes(b"secret")
    (tmp_path / "release/a").rename(tmp_path / "release/old")
    (tmp_path / "release/a").symlink_to(tmp_path / "other")
    told = "the directory a above it is a symbolic link now"
    for way in (root.open, root.hold, root.directory, root.status, lambda name: digest_file(name, root=root)):
        with pytest.raises(Replaced, match=told):
            way("a/b/file")
    (found,) = digest_files([("a/b/file", 6)], root=root)
    assert isinstance(found, OSError)
    assert found.strerror == told
    # Inside the release it is the same.
    (tmp_path / "release/a").unlink()
    (tmp_path / "release/a").symlink_to("old")
    with pytest.raises(Replaced, match=told):
        root.open("a/b/file")


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "a/./b/file", "a//b/file", "/etc/passwd", "", "a\0b"])
def test_names_that_lead_elsewhere_are_refused(root: Root, name: str) -> None:
    for way in (root.open, root.hold):
        with pytest.raises(OSError, match="is not below the root"):
            way(name)
    if name:
        with pytest.raises(OSError, match="is not below the root"):
            root.status(name)
    if "\0" not in name:
        (found,) = digest_files([(name, 1)], root=root)
        assert isinstance(found, OSError)


def test_another_file_is_told_unless_it_is_as_long(root: Root, tmp_path: Path) -> None:
    path = tmp_path / "release/a/b/file"
    seen = SeenFile.of(path.stat())
    for way in (root.open, root.hold):
        os.close(way("a/b/file", seen))
        with path.open("ab") as stream:
            stream.write(b"more")
        os.close(way("a/b/file", seen))  # it grew
        path.rename(tmp_path / "aside")
        path.write_bytes(b"contents")
        with pytest.raises(Replaced, match="another file of another size is in its place now"):
            way("a/b/file", seen)
        path.write_bytes(b"CONTENT")
        os.close(way("a/b/file", seen))
        seen = SeenFile.of(path.stat())


def test_what_is_gone_is_gone(root: Root) -> None:
    for name in ("a/b/none", "a/none/file"):
        with pytest.raises(FileNotFoundError):
            root.open(name)
    with pytest.raises(NotADirectoryError):
        root.open("a/b/file/none")


def test_many_are_looked_at_in_order(root: Root, tmp_path: Path) -> None:
    (tmp_path / "release/c").write_bytes(b"1")
    (tmp_path / "release/link").symlink_to(tmp_path / "secret")
    names = ["a/b/file", "a/b/none", "c", "a/none/x", "a/b/file", "link", f"{root.path}/c"]
    sizes = [found if isinstance(found, OSError) else found.st_size for found in root.statuses(names)]
    assert [size for size in sizes if isinstance(size, int)][:3] == [7, 1, 7]
    assert [type(size) for size in sizes[1:4:2]] == [FileNotFoundError] * 2
    linked = root.statuses(names)[5]
    assert isinstance(linked, os.stat_result)
    assert stat.S_ISLNK(linked.st_mode)
    before = len(os.listdir("/proc/self/fd"))
    root.statuses(names * 50)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_root_of_followed_links_follows_but_takes_files_only(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_bytes(b"content")
    (tmp_path / "release").mkdir()
    (tmp_path / "release/night").symlink_to(tmp_path / "data")
    os.mkfifo(tmp_path / "data/pipe")
    with Root(tmp_path / "release", follow=True) as root:
        assert read(root.open("night/file")) == b"content"
        assert root.status("night/file").st_size == 7
        os.close(root.hold("night/file"))
        (found,) = digest_files([("night/file", 7)], root=root)
        assert found == digest_file("night/file", root=root) == digest_file(str(tmp_path / "data/file"))
        for way in (root.open, root.hold):
            with pytest.raises(Replaced, match="it is a pipe now"):
                way("night/pipe")
        with pytest.raises(OSError, match="is not below"):
            root.open("../data/file")


@pytest.mark.parametrize("code", [1, 38])
def test_without_openat2_the_compiled_module_walks(tmp_path: Path, code: int) -> None:
    need_program("cc")
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(shim), str(tmp_path / "shim.c")], check=True)
    (tmp_path / "r/a/b").mkdir(parents=True)
    (tmp_path / "r/a/b/file").write_bytes(b"content")
    (tmp_path / "r/top").write_bytes(b"content")
    (tmp_path / "r/link").symlink_to("top")
    (tmp_path / "r/c").symlink_to("a")
    program = (
        "import sys; from lading.core.opening import Root; from lading.checksums.digest import digest_files, _core\n"
        "root = Root(sys.argv[1]); assert root._by_components; assert _core() is not None\n"
        "names = ['a/b/file', 'top', 'link', 'c/b/file', 'a/none/x', 'a', 'x' * 300, '../r/top']\n"
        "for found in digest_files([(name, 7) for name in names], root=root): print(getattr(found, 'md5', found))\n"
    )
    environment = {**os.environ, "LD_PRELOAD": str(shim), "OPENAT2_ERRNO": str(code)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "r")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == lines[1] == "9a0364b9e99bb480dd25e1f0284c8555"
    for line, told in zip(lines[2:], ["it is a symbolic link", "c above it is", "No such", "a directory", "too long"]):
        assert told in line
    assert "is not below" in lines[-1] or "ross-device" in lines[-1]


@pytest.mark.parametrize("how", ["openat2", "components", "python"])
def test_swapped_in_a_loop_no_other_file_is_ever_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A file and a link, a directory and a link change places thousands of times while it is opened."""
    release = tmp_path / "release"
    (release / "d").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_bytes(b"secret")
    for place in (release / "file", release / "d/file"):
        place.write_bytes(b"content")
    (release / "l").symlink_to(tmp_path / "other/file")
    (release / "ld").symlink_to(tmp_path / "other")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for good, bad in (("file", "l"), ("d", "ld")):
                for one, two in ((good, "t"), (bad, good), ("t", bad)) * 2:
                    os.rename(release / one, release / two)

    thread = threading.Thread(target=swap)
    thread.start()
    seen, told = 0, 0
    try:
        with Root(release) as root:
            root._by_components |= how == "components"
            if how == "python":
                monkeypatch.setattr(checksum, "_core", lambda: None)
            until = time.monotonic() + 2
            while time.monotonic() < until:
                found = digest_files([("file", 7), ("d/file", 7)] * 4, root=root)
                for digests in found:
                    if isinstance(digests, FileDigests):
                        assert digests.md5 == "9a0364b9e99bb480dd25e1f0284c8555"
                        seen += 1
                    else:
                        told += 1
                try:
                    assert read(root.open("d/file")) == b"content"
                except OSError:
                    told += 1
    finally:
        stop.set()
        thread.join()
    assert seen
    assert told


def test_the_limit_of_descriptors_is_raised() -> None:
    program = (
        "import resource; from lading.core.opening import raise_descriptor_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128)); print(raise_descriptor_limit())\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["128", "128", "128"]
    assert raise_descriptor_limit() > 0
