"""The walk, compiled and in Python: equal to the oracle on hostile trees, whatever the threads."""

import json
import os
import shutil
import tempfile
import threading
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lading.core.errors import UsageError
from lading.crawl.options import NCDU, REST, SPECIAL, Options
from lading.crawl.walker import has_core, make_walker
from lading.tree.globs import compile_globs, parse_glob
from lading.tree.json_reader import read_tree
from lading.tree.size_tree import meta_path, read_meta
from tests import crawling, oracle

both = pytest.mark.parametrize("core", [True, False], ids=crawling.ENGINES)


@pytest.fixture(autouse=True)
def _needs_core(request: pytest.FixtureRequest) -> None:
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("core") is False:
        return
    assert has_core(), "the core is not built: python -c 'import setuptools; setuptools.setup()' build_ext --inplace"


@both
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("workers", [1, 7])
def test_hostile_trees(tmp_path: Path, core: bool, seed: int, workers: int) -> None:
    root = tmp_path / "tree"
    crawling.make_hostile(root, seed)
    for links in ("record", "skip"):
        found = crawling.text(crawling.walked(root, Options(workers=workers, links=links), core=core))
        assert found == crawling.oracle(root, skip=links == "skip")
        json.loads(found)
    timed = crawling.text(crawling.walked(root, Options(workers=workers, mtime=True), core=core))
    assert timed == crawling.oracle(root, mtime=True)


def test_oracles_agree(tmp_path: Path) -> None:
    crawling.make_hostile(tmp_path / "tree", 9)
    assert crawling.oracle(tmp_path / "tree") == oracle.find_json(tmp_path / "tree")


@both
@pytest.mark.parametrize("room", [1 << 20, 8000])
def test_entries_by_name(tmp_path: Path, core: bool, room: int) -> None:
    """Each entry once, in one of the two kinds, with the letter that an independent walk gives it."""
    root = tmp_path / "tree"
    crawling.make_hostile(root, 6)
    wanted = {}
    for folder, directories, names in os.walk(os.fsencode(root)):
        for name in [*directories, *names]:
            path = os.path.join(folder, name)
            letter = "l" if os.path.islink(path) else "f" if os.path.isfile(path) else "o"
            if os.path.isdir(path) and letter != "l":
                letter = "d" if os.listdir(path) else "e"
            wanted[os.path.relpath(path, os.fsencode(root))] = letter
    walker = crawling.walked(root, core=core)
    text = crawling.text(walker)
    found: dict[bytes, str] = {}
    for which, letters in ((SPECIAL, "elo"), (REST, "df")):
        listed = []
        while block := walker.entries(which, room):
            listed += [(item[1:], chr(item[0])) for item in block[:-1].split(b"\0")]
        assert {letter for _, letter in listed} <= set(letters)
        assert len(dict(listed)) == len(listed)
        found |= dict(listed)
    assert found.pop(b"") == "d", "the root"
    assert found == wanted
    assert text == crawling.oracle(root)


@both
def test_small_pieces_join(tmp_path: Path, core: bool) -> None:
    crawling.make_hostile(tmp_path / "tree", 5)
    walker = crawling.walked(tmp_path / "tree", core=core)
    assert crawling.text(walker, room=2000) == crawling.oracle(tmp_path / "tree")


@both
def test_empty_root(tmp_path: Path, core: bool) -> None:
    (tmp_path / "void").mkdir()
    assert crawling.text(crawling.walked(tmp_path / "void", core=core)) == b'["void",0,0]\n'


@both
def test_deeper_than_any_path(tmp_path: Path, core: bool) -> None:
    """3,000 levels with names of 20 bytes: sixteen times PATH_MAX."""
    here = os.open(tmp_path, os.O_RDONLY)
    name = "d" * 20
    for _ in range(3000):
        os.mkdir(name, dir_fd=here)
        here, old = os.open(name, os.O_RDONLY, dir_fd=here), here
        os.close(old)
    os.close(os.open("leaf", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    try:
        found = crawling.text(crawling.walked(tmp_path, Options(workers=3), core=core))
        head, tail = f'["{name}",0,0,', "]" * 3001
        assert found == f'["{tmp_path.name}",0,0,{head * 3000}["leaf",1,0]{tail}\n'.encode()
    finally:
        _remove_chain(tmp_path, name)


def _remove_chain(root: Path, name: str) -> None:
    # rm and shutil stop at long paths or deep recursion: move each level up, then remove it.
    here = os.open(root, os.O_RDONLY)
    while name in os.listdir(here):
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        for entry in os.listdir(inner):
            if entry == "leaf":
                os.unlink(entry, dir_fd=inner)
            else:
                os.rename(entry, "up", src_dir_fd=inner, dst_dir_fd=here)
        os.close(inner)
        os.rmdir(name, dir_fd=here)
        if "up" in os.listdir(here):
            os.rename("up", name, src_dir_fd=here, dst_dir_fd=here)
    os.close(here)


@both
@pytest.mark.parametrize("files", [20_000, pytest.param(300_000, marks=pytest.mark.long)])
def test_flat_directory(tmp_path: Path, core: bool, files: int) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    one = tmp_path / "one"
    one.write_bytes(b"x" * 7)
    there = os.open(flat, os.O_RDONLY)
    for i in range(files):
        # Hard links cost less than files; ext4 allows 65,000 of one.
        if i % 60_000 == 0:
            (flat / f"{i}.0").write_bytes(b"y" * (i % 9))
        else:
            os.link(flat / f"{i - i % 60_000}.0", f"{i}.0", dst_dir_fd=there)
    os.close(there)
    for workers in (1, 8):
        assert crawling.text(crawling.walked(tmp_path, Options(workers=workers), core=core)) == crawling.oracle(
            tmp_path
        )


@both
def test_links_followed(tmp_path: Path, core: bool) -> None:
    root = tmp_path / "tree"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "data").write_bytes(b"12345")
    (root / "file").symlink_to("a/b/data")
    (root / "directory").symlink_to("a/b")
    (root / "dangling").symlink_to("nothing")
    assert crawling.text(crawling.walked(root, Options(links="follow"), core=core)) == crawling.oracle(
        root, follow=True
    )
    (root / "a" / "b" / "up").symlink_to("../..")
    (root / "self").symlink_to("self")
    walker = crawling.walked(root, Options(links="follow"), core=core)
    tree = json.loads(crawling.text(walker))
    assert tree[2] == 15
    assert dict(walker.faults()) == {b"a/b/up": 40, b"directory/up": 40, b"self": 40, b"dangling": 2}


@both
def test_hard_links_counted_once(tmp_path: Path, core: bool) -> None:
    root = tmp_path / "tree"
    (root / "z").mkdir(parents=True)
    (root / "b").write_bytes(b"x" * 100)
    os.link(root / "b", root / "a")
    os.link(root / "b", root / "z" / "first")
    (root / "alone").write_bytes(b"x" * 7)
    found = crawling.text(crawling.walked(root, Options(hard_links="once"), core=core))
    # The first in canonical order has the bytes: directories come before files.
    assert json.loads(found) == [
        "tree", 0, 107, ["z", 0, 100, ["first", 1, 100]], ["a", 1, 0], ["alone", 1, 7], ["b", 1, 0],
    ]  # fmt: skip
    assert crawling.text(crawling.walked(root, core=core)) == crawling.oracle(root)


@both
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_depth_cuts_names_not_sizes(tmp_path: Path, core: bool, depth: int) -> None:
    (tmp_path / "t" / "a" / "b").mkdir(parents=True)
    (tmp_path / "t" / "a" / "b" / "f").write_bytes(b"123")
    os.symlink("x", tmp_path / "t" / "a" / "l")
    found = json.loads(crawling.text(crawling.walked(tmp_path / "t", core=core), depth=depth))
    expected = ["t", 0, 3, ["a", 0, 3, ["b", 0, 3], ["l", 2, 0]]]
    if depth < 2:
        del expected[3][3:]
    if depth < 1:
        del expected[3:]
    assert found == expected


@both
def test_ncdu_reads_it(tmp_path: Path, core: bool) -> None:
    crawling.make_hostile(tmp_path / "tree", 3)
    text = crawling.text(crawling.walked(tmp_path / "tree", Options(form=NCDU), core=core), NCDU)
    node = json.loads(text.decode("utf-8", "surrogateescape"))
    assert node[0]["name"] == str(tmp_path / "tree")
    sizes = {item["name"]: item for item in node[1:] if isinstance(item, dict)}
    assert sizes["sparse"]["asize"] == 15 << 40
    assert sizes["sparse"]["dsize"] == 0
    assert sizes["sparse"]["ino"] == os.stat(tmp_path / "tree" / "sparse").st_ino


def test_both_walks_write_the_same_ncdu(tmp_path: Path) -> None:
    crawling.make_hostile(tmp_path / "tree", 6)
    options = Options(form=NCDU)
    core, plain = (crawling.text(crawling.walked(tmp_path / "tree", options, core=c), NCDU) for c in (True, False))
    assert core == plain


names = st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))
trees = st.recursive(st.integers(0, 1 << 43), lambda inner: st.dictionaries(names, inner, max_size=8), max_leaves=30)


def build(directory: int, tree: dict[bytes, object]) -> None:
    for name, content in tree.items():
        if isinstance(content, dict):
            os.mkdir(name, dir_fd=directory)
            inner = os.open(name, os.O_RDONLY, dir_fd=directory)
            build(inner, content)
            os.close(inner)
        else:
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=directory)
            os.ftruncate(descriptor, content)
            os.close(descriptor)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, trees, max_size=20))
def test_both_walks_equal_the_oracle(tmp_path_factory: pytest.TempPathFactory, tree: dict[bytes, object]) -> None:
    root = tmp_path_factory.mktemp("t")
    directory = os.open(root, os.O_RDONLY)
    build(directory, tree)
    os.close(directory)
    expected = crawling.oracle(root)
    assert crawling.text(crawling.walked(root, core=True)) == expected
    assert crawling.text(crawling.walked(root, core=False)) == expected


patterns = st.text(alphabet="ab*?[]!-é\udc80/", min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(patterns, st.text(alphabet="ab-é\udc80]!", min_size=1, max_size=6))
@example("[[]", "[")
@example("*.tmp", "a.tmp")
def test_patterns_mean_what_fnmatch_means(pattern: str, name: str) -> None:
    try:
        glob = parse_glob(pattern)
    except UsageError:
        return
    test = compile_globs([glob])
    assert test is not None
    wanted = pattern.rstrip("/").removeprefix("./").lstrip("/")
    # fnmatch joins ranges such as a-b-c in its own way and knows no empty negated set: those are left to it.
    if "--" in wanted or wanted.count("-") > 1 or "!]" in wanted:
        return
    assert test(name, name) == fnmatchcase(name, wanted)


@both
def test_excluded(tmp_path: Path, core: bool) -> None:
    root = tmp_path / "tree"
    for path in ("a/keep", "a/x.tmp", "b/deep/x.tmp", "b/.snapshot/old", "c/é1", "c/é2"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"1")
    with open(os.path.join(os.fsencode(root), b"c", b"\xff.raw"), "wb"):
        pass
    globs = tuple(map(parse_glob, ("*.tmp", ".snapshot/", "c/é[!2]", "\udcff.*")))
    found = json.loads(crawling.text(crawling.walked(root, Options(exclude=globs), core=core)))
    assert found == [
        "tree", 0, 2, ["a", 0, 1, ["keep", 1, 1]], ["b", 0, 0, ["deep", 0, 0]], ["c", 0, 1, ["é2", 1, 1]],
    ]  # fmt: skip


@both
def test_mount_points_stay_empty(core: bool) -> None:
    """/dev has other file systems inside (shm, pts); their content is not listed."""
    inside = [name for name in os.listdir("/dev") if os.path.ismount(f"/dev/{name}")]
    if not inside:
        pytest.skip("no mount point below /dev")
    tree = json.loads(crawling.text(crawling.walked(Path("/dev"), Options(one_file_system=True), core=core)))
    found = {child[0]: child for child in tree[3:]}
    for name in inside:
        if os.path.isdir(f"/dev/{name}"):
            assert found[name] == [name, 0, 0]


def test_sizes_that_64_bits_do_not_hold(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse files of 8 EiB, which memory holds: both walks say it in a sentence and write nothing."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        pytest.skip("no file system in memory")
    with tempfile.TemporaryDirectory(dir=memory) as root:
        (Path(root) / "below").mkdir()
        for path in ("a", "below/b"):
            (Path(root) / path).touch()
            os.truncate(Path(root) / path, (1 << 63) - 4096)
        for walk in ("core", "python"):
            monkeypatch.setenv("LADING_WALK", walk)
            result = run("find.py", root, "-o", Path(root) / "find.json")
            assert result.returncode == 1, walk
            assert result.stderr.count("\n") == 1
            assert "more than 8 EiB" in result.stderr
            assert not (Path(root) / "find.json").exists()


@both
def test_rate_cap(tmp_path: Path, core: bool) -> None:
    """The cap is kept: 300 operations at 1,000 a second cannot take less than 0.25 s."""
    for i in range(300):
        (tmp_path / str(i)).touch()
    started = time.monotonic()
    crawling.walked(tmp_path, Options(workers=4, rate=1000), core=core)
    assert time.monotonic() - started > 0.25


@both
def test_stops_soon(tmp_path: Path, core: bool) -> None:
    for i in range(500):
        (tmp_path / str(i)).touch()
    walker = make_walker(str(tmp_path), Options(workers=4, rate=20), core=core)
    walker.start()
    assert not walker.wait(0.1)
    walker.stop()
    ended = threading.Event()
    threading.Thread(target=lambda: (walker.end(), ended.set()), daemon=True).start()
    assert ended.wait(20), "the walk goes on after stop()"


@both
def test_entries_that_vanish(tmp_path: Path, core: bool) -> None:
    """Delete while crawling: every round ends, with a tree that the strict reader takes and no fault."""
    rounds = int(os.environ.get("LADING_VANISH_ROUNDS", "12"))
    for number in range(rounds):
        root = tmp_path / str(number)
        for i in range(40):
            (root / f"d{i}" / "sub").mkdir(parents=True)
            for j in range(15):
                (root / f"d{i}" / f"f{j}").write_bytes(b"1")
                (root / f"d{i}" / "sub" / f"f{j}").write_bytes(b"1")
        walker = make_walker(str(root), Options(workers=4), core=core)
        deleting = threading.Thread(target=_delete, args=(root, number))
        counts = _crawl_beside(walker, deleting)
        (tmp_path / "find.json").write_bytes(crawling.text(walker))
        assert len(read_tree(tmp_path / "find.json").tree) == counts[0] == 1 + counts[1] + counts[2] - 1


def _crawl_beside(walker: Any, deleting: threading.Thread) -> Any:
    """Crawl while a thread deletes; what vanishes is no fault."""
    deleting.start()
    walker.start()
    while not walker.wait(1):
        pass
    deleting.join()
    walker.end()
    counts = walker.settle()
    assert walker.faults() == []
    return counts


def _delete(root: Path, number: int) -> None:
    time.sleep(0.001 * (number % 5))
    for i in range(number % 3, 40, 2):
        for folder in (root / f"d{i}" / "sub", root / f"d{i}"):
            for entry in list(folder.iterdir()):
                if entry.is_file():
                    entry.unlink()
                    if number % 4 == 0:
                        # The same name comes back as a directory.
                        entry.mkdir()
                        entry.rmdir()
            folder.rmdir()


def _paths(node: list[Any], above: str = "") -> dict[str, tuple[int, int]]:
    """Path below the root → (type, size; 0 for directories) of everything in a nested list."""
    found = {}
    for child in node[3:]:
        path = above + child[0]
        found[path] = (child[1], child[2] if child[1] else 0)
        found |= _paths(child, path + "/")
    return found


def _remove(root: Path, victims: list[str], delay: float) -> None:
    time.sleep(delay)
    for victim in victims:
        path = root / victim
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # perhaps a directory above was taken before


@pytest.mark.long
@both
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tree=st.dictionaries(names, trees, min_size=1, max_size=25),
    data=st.data(),
    delay=st.floats(0, 0.004),
    workers=st.integers(1, 5),
    rate=st.sampled_from([0.0, 4000.0, 20000.0]),
)
def test_random_trees_with_random_deletions(
    tmp_path_factory: pytest.TempPathFactory,
    core: bool,
    tree: dict[bytes, object],
    data: st.DataObject,
    delay: float,
    workers: int,
    rate: float,
) -> None:
    """What stays is there as it is, what is there was there before, and what vanished is no fault."""
    root = tmp_path_factory.mktemp("t")
    directory = os.open(root, os.O_RDONLY)
    build(directory, tree)
    os.close(directory)
    before = _paths(json.loads(crawling.oracle(root)))
    victims = data.draw(st.lists(st.sampled_from(sorted(before)), max_size=12))
    walker = make_walker(str(root), Options(workers=workers, rate=rate), core=core)
    deleting = threading.Thread(target=_remove, args=(root, victims, delay))
    counts = _crawl_beside(walker, deleting)
    output = root.with_name(f"{root.name}.json")
    output.write_bytes(crawling.text(walker))
    assert len(read_tree(output).tree) == counts[0]
    seen = _paths(json.loads(output.read_bytes()))
    assert seen.items() <= before.items()
    stays = {
        path: what
        for path, what in before.items()
        if not any(path == victim or path.startswith(victim + "/") for victim in victims)
    }
    assert stays.items() <= seen.items()
    output.unlink()
    shutil.rmtree(root)


def test_meta_beside_the_tree(tmp_path: Path, run) -> None:
    crawling.make_hostile(tmp_path / "tree", 2)
    result = run("find.py", tmp_path / "tree", "-o", tmp_path / "x.json")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "x.json").read_bytes() == crawling.oracle(tmp_path / "tree")
    meta = read_meta(meta_path(tmp_path / "x.json"))
    found = read_tree(tmp_path / "x.json")
    assert meta.sha256 == found.sha256
    assert meta.entries == len(found.tree)
    assert [meta.directories, meta.files, meta.links, meta.others] == [found.tree.types.count(k) for k in (0, 1, 2, -1)]
