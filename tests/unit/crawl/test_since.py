"""A crawl that looks only at what changed: the bytes of a whole one, but for the one thing that no directory tells."""

import io
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lading.cli.find import main as find
from lading.core.errors import LadingError, UsageError
from lading.core.times import LATEST
from lading.crawl import since
from lading.crawl.options import Options, Walker
from lading.crawl.walker import make_walker
from lading.tree.directory_stamps import STAMP, read_stamps, stamps_path
from lading.tree.globs import parse_glob
from lading.tree.json_reader import read_tree
from lading.tree.size_tree import DIRECTORY, FlatTree, meta_path, read_meta
from tests import crawling

both = pytest.mark.parametrize("core", [True, False], ids=crawling.ENGINES)
OPTIONS = Options(workers=3, stamps=True)
# Longer than a step of the kernel's clock: changes after it have another time than those before it.
TICK = 0.012
Known = tuple[FlatTree, bytes]


def stamps_of(walker: Walker, limit: int = LATEST, room: int = 1 << 16) -> bytes:
    pieces = []
    while piece := walker.stamps(limit, room):
        pieces.append(piece)
    return b"".join(pieces)


def first_crawl(root: Path, scratch: Path, options: Options = OPTIONS, *, core: bool = True) -> Known:
    """Crawl whole; what a later crawl knows by it, also of directories that changed a moment ago."""
    walker = crawling.walked(root, options, core=core)
    scratch.write_bytes(crawling.text(walker))
    time.sleep(TICK)
    return read_tree(scratch).tree, stamps_of(walker)


def tell(walker: Walker, known: Known) -> None:
    tree, stamps = known
    walker.know(tree.types, tree.sizes, tree.ends, tree.names, tree.offsets, tree.mtimes, stamps)


def crawl_again(root: Path, known: Known, options: Options = OPTIONS, *, core: bool = True, ranks: int = 1) -> Walker:
    """Crawl what changed, by walkers that share as ranks do; returns the first one, settled."""
    walkers = [make_walker(str(root), options, seed=not rank, core=core) for rank in range(ranks)]
    for walker in walkers:
        tell(walker, known)
        walker.start()
    while not all(walker.wait(0.001) for walker in walkers):
        for rank, walker in enumerate(walkers if ranks > 1 else ()):
            for item in walker.take(4):
                walkers[(rank + 1) % ranks].give(rank, *item)
        walkers[0].take(0)
    for walker in walkers:
        walker.end()
    for rank, walker in enumerate(walkers if ranks > 1 else ()):
        index = 0
        while (shard := walker.shard(index)) is not None:
            walkers[0].add_shard(rank, shard)
            index += 1
    walkers[0].settle()
    return walkers[0]


def change(root: bytes, draw: random.Random) -> None:
    """One change of names: everything that users and programs do, but rewriting a file in place."""
    folders = [folder for folder, _, _ in os.walk(root)]
    folder = draw.choice(folders)
    names = sorted(os.listdir(folder))
    name = draw.choice([b"new", b"new\xff", "ü".encode(), b"zz", *names])
    path, kind = os.path.join(folder, name), draw.randrange(8)
    if kind == 0 and not os.path.lexists(path):
        os.mkdir(path)
    elif kind == 1 and not os.path.lexists(path):
        os.symlink(b"anywhere", path)
    elif kind == 2 and not os.path.lexists(path):
        os.mkfifo(path)
    elif kind == 3 and os.path.lexists(path):  # gone, and perhaps something else of that name
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        if draw.random() < 0.5:
            os.mkdir(path) if draw.random() < 0.5 else write(path, draw.randrange(9))
    elif kind == 4 and os.path.lexists(path):  # elsewhere, with all below it
        target = os.path.join(draw.choice(folders), b"moved%d" % draw.randrange(3))
        if not os.path.lexists(target) and not target.startswith(path + b"/"):
            os.rename(path, target)
    elif kind == 5 and os.path.isfile(path) and not os.path.islink(path):  # as programs save a file
        part = os.path.join(folder, b".part")  # not by the name of the file, which may be as long as names can be
        write(part, draw.randrange(9))
        os.replace(part, path)
    elif kind == 6 and folder != root:
        os.chmod(folder, draw.choice([0o700, 0o755]))
    elif not os.path.lexists(path):
        write(path, draw.randrange(9))


def write(path: bytes | Path, size: int) -> None:
    with open(path, "wb") as stream:
        stream.write(b"x" * size)


@both
@pytest.mark.parametrize("ranks", [1, 3])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 30))
def test_the_bytes_of_a_whole_crawl(
    tmp_path_factory: pytest.TempPathFactory, core: bool, ranks: int, seed: int
) -> None:
    top, draw = tmp_path_factory.mktemp("since"), random.Random(seed)
    root, options = top / "tree", replace(OPTIONS, mtime=draw.random() < 0.5)
    crawling.make_hostile(root, seed, size=40)
    known = first_crawl(root, top / "tree.json", options, core=core)
    for _ in range(3):
        for _ in range(draw.randrange(8)):
            change(os.fsencode(root), draw)
        walker = crawl_again(root, known, options, core=core, ranks=ranks)
        found = crawling.text(walker)
        assert found == crawling.oracle(root, mtime=options.mtime)
        (top / "tree.json").write_bytes(found)
        time.sleep(TICK)
        known = read_tree(top / "tree.json").tree, stamps_of(walker, room=STAMP * 3)
    shutil.rmtree(root)


@both
def test_both_walks_write_the_same_stamps(tmp_path: Path, core: bool) -> None:
    root = tmp_path / "tree"
    crawling.make_hostile(root, 3)
    tree, stamps = first_crawl(root, tmp_path / "a.json", core=core)
    assert len(stamps) == STAMP * tree.types.count(DIRECTORY)
    assert stamps == first_crawl(root, tmp_path / "b.json", core=not core)[1]
    listed = [crawling.walked(root, OPTIONS, core=core) for _ in range(2)]
    assert stamps_of(listed[0], limit=0) == bytes(len(stamps)), "nothing was there before 1970"
    assert listed[1].unchanged() == 0


@both
def test_only_what_changed_is_listed(tmp_path: Path, core: bool) -> None:
    root = tmp_path / "tree"
    for number in range(20):
        for part in ("a", "b/c", "d/e"):
            (root / str(number) / part).mkdir(parents=True)
            write(root / str(number) / part / "file", number)
    known = first_crawl(root, tmp_path / "tree.json", core=core)
    directories = known[0].types.count(DIRECTORY)
    assert crawl_again(root, known, core=core).unchanged() == directories == 121
    write(root / "3/b/c/more", 1)
    (root / "4/d").chmod(0o700)
    os.mkfifo(root / "5/fifo")  # says nothing of what is beside it the next time
    assert crawl_again(root, known, core=core).unchanged() == directories - 3
    known = first_crawl(root, tmp_path / "tree.json", core=core)
    walker = crawl_again(root, known, core=core)
    assert walker.unchanged() == directories - 1
    assert crawling.text(walker) == crawling.oracle(root)
    write(root / "6/a/now.tmp", 1)  # a pattern that the first crawl did not have
    known = first_crawl(root, tmp_path / "tree.json", core=core)
    walker = crawl_again(root, known, replace(OPTIONS, exclude=(parse_glob("*.tmp"),)), core=core)
    assert walker.unchanged() == directories - 2
    assert b"now.tmp" not in crawling.text(walker)


@both
def test_what_was_handed_on_stays_known(tmp_path: Path, core: bool) -> None:
    root = tmp_path / "tree"
    for number in range(300):
        (root / f"{number % 7}/{number}").mkdir(parents=True)
        write(root / f"{number % 7}/{number}/file", number)
    options = replace(OPTIONS, rate=3000.0)
    known = first_crawl(root, tmp_path / "tree.json", core=core)
    walker = crawl_again(root, known, options, core=core, ranks=3)
    assert walker.unchanged() == 308
    assert crawling.text(walker) == crawling.oracle(root)
    assert stamps_of(walker) == known[1]


@both
def test_deeper_than_any_path(tmp_path: Path, core: bool) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d" * 20, dir_fd=here)
        here, old = os.open("d" * 20, os.O_RDONLY, dir_fd=here), here
        os.close(old)
    time.sleep(TICK)
    walker = crawling.walked(tmp_path, OPTIONS, core=core)
    time.sleep(TICK)
    tree = read_tree_of(crawling.text(walker))
    os.close(os.open("leaf", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    again = crawl_again(tmp_path, (tree, stamps_of(walker)), core=core)
    assert again.unchanged() == 400
    assert b'["leaf",1,0]' in crawling.text(again)
    shutil.rmtree(tmp_path / ("d" * 20), ignore_errors=True)


def read_tree_of(text: bytes) -> FlatTree:
    from lading.tree.json_reader import _Reader

    return _Reader(Path("find.json")).read(io.BytesIO(text)).tree


@both
def test_a_tree_that_does_not_fit(tmp_path: Path, core: bool) -> None:
    (tmp_path / "tree").mkdir()
    known = first_crawl(tmp_path / "tree", tmp_path / "tree.json", core=core)
    with pytest.raises(ValueError, match="does not fit"):
        tell(make_walker(str(tmp_path / "tree"), replace(OPTIONS, mtime=True), core=core), known)


def test_damaged_columns_are_refused(tmp_path: Path) -> None:
    """Each number of the columns once too large and once too small: refused, or a tree all the same."""
    root = tmp_path / "tree"
    crawling.make_hostile(root, 2, size=8)
    tree, stamps = first_crawl(root, tmp_path / "tree.json")
    columns = [tree.types, tree.sizes, tree.ends, bytearray(tree.names), tree.offsets, None, bytearray(stamps)]
    refused = 0
    for place in (0, 1, 2, 4):
        for at in range(0, len(columns[place]), 3):  # type: ignore[arg-type]
            for value in (-1, 100):
                damaged: list[Any] = [*columns[:place], columns[place][:], *columns[place + 1 :]]  # type: ignore[index]
                damaged[place][at] = value
                walker = make_walker(str(root), OPTIONS, core=True)
                try:
                    walker.know(*damaged)
                except ValueError:
                    refused += 1
                    with pytest.raises(ValueError, match="stopped"):
                        walker.settle()
    assert refused > 30
    short = make_walker(str(root), OPTIONS, core=True)
    with pytest.raises(ValueError, match="does not fit"):
        short.know(*columns[:6], bytes(stamps)[STAMP:])  # type: ignore[arg-type]


# -- the command --


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release that was crawled a while ago, as it seems: find.json beside it."""
    root = tmp_path / "release"
    for number in range(6):
        (root / str(number)).mkdir(parents=True)
        write(root / str(number) / "file", number)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(since, "SLACK_NS", -(10**12))
    assert find([str(root)]) == 0
    time.sleep(TICK)
    return root


def test_the_command_says_what_it_did_not_see(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The limit: a file rewritten in place keeps its size, and only that; the run and its record say so."""
    first = read_meta(Path("find.meta.json"))
    write(release / "2/more", 7)
    write(release / "4/file", 1000)  # in place: its directory does not tell
    capsys.readouterr()
    assert find([str(release), "--since", "find.json"]) == 0
    said = capsys.readouterr().out
    assert "6 of 7 directories have not changed since" in said
    assert "rewritten in place there, under the same name, keeps its earlier size: to see those, crawl without" in said
    found = Path("find.json").read_bytes()
    assert found == crawling.oracle(release).replace(
        b'["4",0,1000,["file",1,1000]]', b'["4",0,4,["file",1,4]]'
    ).replace(b'["release",0,1018,', b'["release",0,22,')
    meta = read_meta(Path("find.meta.json"))
    assert meta.settings["since"] == {
        "sha256": first.sha256, "started": first.started, "whole_started": first.started, "unchanged": 6,
    }  # fmt: skip
    assert find([str(release), "--since", "find.json"]) == 0
    last = read_meta(Path("find.meta.json")).settings["since"]
    assert (last["started"], last["whole_started"], last["unchanged"]) == (meta.started, first.started, 7)
    assert find([str(release)]) == 0
    assert Path("find.json").read_bytes() == crawling.oracle(release)
    assert "since" not in read_meta(Path("find.meta.json")).settings


def test_a_moment_ago_proves_nothing(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories that changed just before the earlier crawl may have changed within a step of the clock since."""
    monkeypatch.undo()
    os.chdir(release.parent)
    assert find([str(release), "-o", "young.json"]) == 0
    assert find([str(release), "--since", "young.json", "-o", "young.json"]) == 0
    assert read_meta(Path("young.meta.json")).settings["since"]["unchanged"] == 0


def test_the_first_night_has_no_earlier_crawl(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find([str(release), "--since", "new.json", "-o", "new.json"]) == 0
    assert "new.json does not exist yet; everything is listed" in capsys.readouterr().err
    assert Path("new.json").read_bytes() == Path("find.json").read_bytes()
    with pytest.raises(UsageError, match=r"needs other\.json, which is missing; give the tree of an earlier crawl"):
        find([str(release), "--since", "other.json", "-o", "new.json"])


def test_a_packed_tree(release: Path) -> None:
    """Its sidecars have the names of the plain one; a second crawl reads it packed and replaces it."""
    assert find([str(release), "-o", "packed.json.zst"]) == 0
    time.sleep(TICK)
    (release / "3" / "new").mkdir()
    assert find([str(release), "--since", "packed.json.zst", "-o", "packed.json.zst"]) == 0
    assert read_meta(Path("packed.meta.json")).settings["since"]["unchanged"] == 6
    with open("packed.json.zst", "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        assert stream.read() == crawling.oracle(release)


def edit_meta(**changes: object) -> Callable[[], None]:
    def edit() -> None:
        meta = json.loads(Path("find.meta.json").read_text())
        Path("find.meta.json").write_text(json.dumps(meta | changes))

    return edit


def unpack() -> bytes:
    with open("find.directories.zst", "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        return stream.read()


def edit_stamps(**changes: object) -> Callable[[], None]:
    """Change the header, with the sums put right."""
    import hashlib

    def edit() -> None:
        text = unpack()
        line, _, rest = text.partition(b"\n")
        text = json.dumps(json.loads(line) | changes).encode() + b"\n" + rest[:-32]
        text += hashlib.sha256(text).digest()
        Path("find.directories.zst").write_bytes(zstandard.compress(text))

    return edit


def truncate() -> None:
    os.truncate("find.directories.zst", 100)


def unpacked_tail() -> None:
    text = unpack()
    Path("find.directories.zst").write_bytes(zstandard.compress(text[:-1]))


def edit_tree() -> None:
    Path("find.json").write_bytes(Path("find.json").read_bytes().replace(b'"file",1,4', b'"fine",1,4'))


@pytest.mark.parametrize(
    ("damage", "flags", "says"),
    [
        (None, ["--mtime"], r"crawled with other settings \(--mtime\); crawl as then, or crawl whole"),
        (None, ["--exclude", "x", "--links", "skip"], r"\(--links, --exclude\)"),
        (None, ["--links", "follow"], "--links follow and --since exclude each other"),
        (None, ["--hard-links", "once", "--ncdu"], "--ncdu and --since exclude each other.*\n--hard-links once and"),
        (edit_meta(settings={"from": "list.txt"}), [], "was made from a list, which tells nothing of directories"),
        (edit_meta(root="/elsewhere"), [], "is of /elsewhere, not of "),
        (edit_meta(sha256="0" * 64), [], "it was edited; crawl whole: leave --since out"),
        (edit_meta(settings={"depth": 2}), [], "ends at --depth 2"),
        (edit_tree, [], "it was edited"),
        (truncate, [], r"find.directories.zst (cannot be used|is damaged or truncated)"),
        (unpacked_tail, [], "is damaged or truncated"),
        (edit_stamps(tree_sha256="0" * 64), [], "is not of the same crawl as the tree beside it"),
        (edit_stamps(format=2), [], "it is not of format 1"),
        (edit_stamps(uid=os.geteuid() + 1), [], "who may read other directories than you"),
        (edit_stamps(file_system=["ext4", "/dev/other"]), [], "but was on ext4 /dev/other when"),
        (edit_stamps(started_ns=LATEST), [], "later than the clock of this host says"),
        (lambda: os.unlink("find.directories.zst"), [], "did not record its directories; crawl whole once"),
        (lambda: os.unlink("find.meta.json"), [], "which is missing; give the tree of an earlier crawl"),
    ],
)
def test_what_proves_nothing_is_refused(
    release: Path, damage: Callable[[], None] | None, flags: list[str], says: str
) -> None:
    if damage:
        damage()
    before = Path("find.json").read_bytes()
    with pytest.raises(LadingError, match=says) as refused:
        find([str(release), "--since", "find.json", *flags])
    assert refused.value.exit_code == 2
    assert Path("find.json").read_bytes() == before


def test_a_file_system_that_proves_nothing(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(since, "describe_file_system", lambda root: ("fuse.sshfs", "host:"))
    with pytest.raises(
        UsageError, match=r"on a file system of type fuse\.sshfs, whose directory times do not show what changed"
    ):
        find([str(release), "--since", "find.json"])


def test_file_systems_are_told_apart() -> None:
    assert since.describe_file_system("/proc/self")[0] == "proc"
    assert since.describe_file_system("/")[0] not in ("", "proc")


def test_what_records_no_directories(release: Path) -> None:
    """A tree that cannot be the earlier one has no such file beside it, not even that of a crawl before."""
    path = stamps_path(Path("find.json"))
    tree = read_tree(Path("find.json"))
    assert len(read_stamps(path, tree.sha256, 7).stamps) == 7 * STAMP
    for flags in (["--depth", "1"], ["--links", "follow"], ["--hard-links", "once"]):
        assert find([str(release)]) == 0
        assert path.exists()
        assert find([str(release), *flags]) == 0
        assert not path.exists()
    assert meta_path(Path("find.json")).exists()
