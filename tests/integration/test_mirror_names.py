"""Odd names in the mirror: what git, git-annex or DataLad cannot hold is written in another way."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.core.errors import LadingError
from lading.mirror.git.annex import AnnexAccess, check_address
from lading.mirror.git.portable_names import original_path, repository_path
from lading.verification.manifest import ManifestHeader
from tests import hostile_names
from tests.conftest import need_program
from tests.mirrors import Bucket, Listed, allow_loopback, content, datalad, git, heads, repository, stores, tree

DATE = b"_2024-05-27_16-07-59"
MORE = [b"foo\\.git", b"a\\.gitmodules", b"\\.git", b"\\", b"~1000000", b"g~100000", b"gi7eb~10", b"GI7EBA~1 .",
        b"gitmod~4:x", b"%41" * 85, b".GIT\\x", b"x\\git~1:y", b"\xe2\x80\x8e" * 80 + b".git", b"mailma~1",
        b"MABA30~1"]  # fmt: skip
ODDEST = [b"-x", b"\xff", b"new\nline", b"\x1b[31mred", b"user@host", b"host:x", b"..two", b"trailing ", b'"quoted"',
          b"back\\slash", b"*", b"\x7f", "\u2028".encode()]  # fmt: skip


# Without DataLad


def refused_by_git(tmp_path: Path, mode: bytes, paths: Iterable[bytes]) -> list[bytes]:
    """Ask git itself, with the rules of every file system on; it ignores what it refuses and says so."""
    rules = ["-c", "core.protectHFS=true", "-c", "core.protectNTFS=true"]
    done = subprocess.run(
        ["git", *rules, "update-index", "-z", "--index-info"],
        cwd=tmp_path,
        input=b"".join(b"%s %s\t%s\0" % (mode, b"1" * 40, path) for path in paths),
        capture_output=True,
        check=False,
        env={**os.environ, "GIT_INDEX_FILE": str(tmp_path / os.urandom(4).hex())},
    )
    return done.stderr.splitlines()


def test_git_takes_every_written_name_and_would_refuse_some_as_they_are(tmp_path) -> None:
    git("init", "-q", "--bare", ".", cwd=tmp_path)
    names = [*hostile_names.NAMES, *MORE]
    paths = [path for name in names for path in (name, b"d/" + name, b"e/" + name + b"/f")]
    written = {repository_path(path): path for path in paths}
    assert len(written) == len(paths)
    assert all(len(part) <= 255 for path in written for part in path.split(b"/"))
    for path in written:
        path.decode()
        assert not any(sign in path for sign in (b"\n", b"\r", b"\x1b", b"\x7f")), path
    for mode in (b"120000", b"100644"):
        assert refused_by_git(tmp_path, mode, written) == []
    assert len(refused_by_git(tmp_path, b"120000", paths)) > 60
    for name in (b".git", b"git~1", b"foo\\.git", b".gitmodules", "\u200e.git".encode()):
        assert refused_by_git(tmp_path, b"120000", [b"d/" + name]), name


BYTES = st.lists(
    st.one_of(
        st.sampled_from(sorted({*hostile_names.NAMES, *MORE} - {b".", b".."})),
        st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"/", b"%").replace(b"\0", b"\\")),
    ).filter(lambda name: name not in (b".", b"..")),
    min_size=1,
    max_size=3,
).map(b"/".join)


@given(BYTES, BYTES, st.booleans())
def test_names_are_written_one_to_one(one: bytes, other: bytes, directory: bool) -> None:
    first, second = repository_path(one, directory=directory), repository_path(other, directory=directory)
    assert (first == second) == (one == other)
    assert original_path(first) in (one, None)
    # What is written is safe, so a name like it in the data can only be another file.
    assert repository_path(first) != first or first == one


def test_ordinary_names_stay_as_they_are() -> None:
    for name in (b"a/b c/d.tar.gz", b"-rf", b"d/-rf", b"100%", b"a%20b", "d/\u65e5\u672c.txt".encode(), b".hidden",
                 b"x/.github/f", b"git", b"a~", b"at@home", b"d/at@home", b"12:30.csv", b"legit.txt"):  # fmt: skip
        assert repository_path(name) == name, name
    assert repository_path(b"x" * 255) == b"x" * 255


def test_a_name_written_in_the_old_way_is_renamed_not_removed(mirror, tmp_path) -> None:
    """Earlier versions kept ``.gitignore`` as it is. It is half of the dataset: its removal would be refused."""
    listing = Listed(tmp_path / "root")
    listing.put("a/.gitignore", b"*")
    listing.put("a/f.dat", b"f")
    mirror(listing, "update")
    where = repository(tmp_path, "a")
    entries = git("ls-tree", "-z", "main", cwd=where).replace(b"\t%2Egitignore\0", b"\t.gitignore\0")
    made = subprocess.run(["git", "mktree", "-z"], cwd=where, input=entries, capture_output=True, check=True)
    commit = git("commit-tree", "-m", "old", "-p", "main", made.stdout.decode().strip(), cwd=where).decode().strip()
    git("update-ref", "refs/heads/main", commit, cwd=where)
    said = mirror(listing, "update", "--mode", "force", complete=False)
    assert "a: 0 added, 1 changed, 0 removed" in said
    mirror(listing, "update")
    assert "agrees" in mirror(listing, "verify")
    names = [line.rpartition(b"\t")[2] for line in tree(where, "main")]
    assert b"%2Egitignore" in names
    assert b".gitignore" not in names


@pytest.mark.parametrize("bucket", ["a b", "x\ny", "-x", "a autoenable=true", "", "a/b", "b\u00fccher"])
def test_a_bucket_name_that_none_has_is_refused(mirror, listing, tmp_path, monkeypatch, bucket) -> None:
    def header(*given: object) -> ManifestHeader:
        return ManifestHeader(bucket, *given[1:])  # type: ignore[arg-type]

    monkeypatch.setattr("tests.mirrors.ManifestHeader", header)
    for access in ("public", "private"):
        said = mirror(listing, "update", config=f"access: {access}\n", code=4)
        assert "is not a bucket name" in said
    assert not heads(stores(tmp_path))


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://h:1 type=evil", "http://h:1\nx", "ftp://h", "http://", "http://user:s3cr3t@h", "http://h:0x1",
        "http://h:99999", "http://h?x=1", "http://h/\x1b[31m", "http://h/#x", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_an_endpoint_that_is_no_address_is_refused(endpoint) -> None:
    with pytest.raises(LadingError) as caught:
        check_address("bucket", endpoint)
    assert "s3cr3t" not in str(caught.value)
    for good in (
        None,
        "http://127.0.0.1:9",
        "https://s3.example.org",
        "https://s3.example.org:443/path/",
        "http://[::1]:9",
    ):
        check_address("my.bucket-1", good)


def test_what_remote_log_says_is_what_was_meant() -> None:
    access = AnnexAccess("bucket", "https://s3.example.org:8443/base", "id")
    (line,) = access.settings(1)[b"remote.log"]
    pairs = [word.split(b"=", 1) for word in line.split(b" ")[1:]]
    assert all(len(pair) == 2 for pair in pairs)
    assert dict(pairs)[b"bucket"] == b"bucket"


# With DataLad


OWN = {b".datalad", b".mirror", b".gitmodules", b".gitattributes"}


def installed(tmp_path: Path, name: str = "clone") -> Path:
    need_program("git-annex", "datalad")
    datalad("clone", f"ria+file://{stores(tmp_path)}#~super", name, cwd=tmp_path)
    done = datalad("get", "-n", "-r", ".", cwd=tmp_path / name, check=False)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    return tmp_path / name


def check_clone(clone: Path, expected: int) -> None:
    """What a user would look at: git and DataLad find nothing wrong, every subdataset is there."""
    status = git("submodule", "status", cwd=clone).splitlines()
    assert status
    assert all(line.startswith(b" ") for line in status), status
    assert git("status", "--porcelain", cwd=clone) == b""
    said = datalad("status", "-r", cwd=clone)
    assert "nothing to save" in said.stdout
    assert "WARNING" not in said.stderr
    assert "ERROR" not in said.stderr
    files = git("ls-files", "-z", "--recurse-submodules", cwd=clone).split(b"\0")[:-1]
    assert sum(not set(path.split(b"/")) & OWN for path in files) == expected


@pytest.mark.long
def test_one_odd_session_makes_no_other_uninstallable(mirror, tmp_path) -> None:
    listing = Listed(tmp_path / "root")
    listing.put(b"lab/plain" + DATE + b"/f.bin", b"plain")
    for number, name in enumerate(ODDEST):
        listing.put(name + DATE + b"/f.bin", name)
        if number % 3 == 0:
            listing.put(name + b"/s" + DATE + b"/x.zarr/zarr.json", name)
            listing.put(name + b"/loose", name)
    # Escaped and real names that look alike stay apart.
    listing.put(b"%FF" + DATE + b"/f.bin", b"real")
    listing.put(b"%2Dx" + DATE + b"/f.bin", b"real")
    mirror(listing, "update")
    assert "agrees" in mirror(listing, "verify")
    check_clone(installed(tmp_path), len(listing.rows))


def test_files_that_steer_git_do_not(mirror, tmp_path) -> None:
    listing = Listed(tmp_path / "root")
    for name in (b".gitignore", b"d/.gitignore", b"d/.gitattributes", b".mailmap", b".noannex", b"d/.git/config",
                 b".gitmodules", b".datalad/config", b"new\nline", b"latin-\xe9", b"f.dat"):  # fmt: skip
        listing.put(b"a/" + name, b"*\n" + name)
        listing.put_local(os.fsdecode(b"a/" + name), b"*\n" + name)
    mirror(listing, "update", config="text: {patterns: ['*'], max_size: 1000}\n")
    clone = installed(tmp_path)
    check_clone(clone, len(listing.rows))
    done = subprocess.run(["git", "status"], cwd=clone / "a", capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert (clone / "a" / ".git" / "annex").is_dir()


@pytest.mark.long
def test_the_corpus_as_datasets(mirror, tmp_path) -> None:
    """Every name that is written in another way, and some of the others; DataLad takes a second for each."""
    written = [name for name in hostile_names.NAMES if repository_path(name, directory=True) != name]
    plain = [name for name in hostile_names.NAMES if name not in written]
    assert len(written) > 60
    listing = Listed(tmp_path / "root")
    for number, name in enumerate([*written, *plain[::8]]):
        if number % 3 == 0:
            listing.put(name[:230] + b"%d" % number + DATE + b"/f.bin", name)
        elif number % 3 == 1:
            listing.put(name + b"/s" + DATE + b"/f.bin", name)
        else:
            listing.put(name + b"/f.bin", name)
    mirror(listing, "update")
    assert "agrees" in mirror(listing, "verify")
    check_clone(installed(tmp_path), len(listing.rows))


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
def test_the_whole_corpus_as_files_comes_back(gateway, bucket, run, tmp_path) -> None:
    need_program("git-annex", "datalad")
    gateway.make_bucket(bucket, versioned=True)
    allow_loopback()
    store = Bucket(gateway.client(), bucket, gateway.endpoint, tmp_path / "root")
    store.open_to_all()
    # One session: a dataset for each of the folders would take a second each, as in the test above.
    session = b"s" + DATE + b"/"
    files = {session + path: hostile_names.content(path) for path in hostile_names.paths()}
    store.fill(files)
    manifest = store.write(tmp_path / "manifest.jsonl.zst")
    for verb in ("update", "verify"):
        done = run("-m", "lading", "mirror", "-m", manifest, "-B", tmp_path, "--store", "datasets", verb, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    clone = installed(tmp_path)
    datalad("get", "-r", "-J", "4", ".", cwd=clone)
    expected = {session + repository_path(path[len(session) :]): data for path, data in files.items()}
    assert {os.fsencode(path): data for path, data in content(clone).items()} == expected
    check_clone(clone, sum(not set(path.split(b"/")) & OWN for path in expected))
