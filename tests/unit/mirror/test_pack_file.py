"""Packs that the mirror writes itself: git finds them whole, and the commits are those of ``git fast-import``."""

import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lading.core.errors import LadingError
from lading.mirror import engine
from lading.mirror.engine import DatasetUpdate, write_by_import
from lading.mirror.git import pack_file
from lading.mirror.git.annex import AnnexAccess, KeyPlaces, ObjectAddress
from lading.mirror.git.commands import IDENTITY, list_tree, resolve, run, tree_entries
from lading.mirror.git.fast_import import COMMIT, FILE, LINK, Change, commit_changes
from lading.mirror.git.pack_file import PackFile, commit_object
from lading.mirror.layout import Dataset
from tests.mirrors import git

MESSAGE, EPOCH = "Mirror: ü\n\nSource: s3://b/\n", 1_700_000_000
# Names whose order as bytes is another than that of their trees at a first glance.
NAMES = ["a", "a-", "a.b", "a0", "A", "é", "\udcff", "ab", "b c", '"q', "0", "00"]


@pytest.fixture
def repositories(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "two"):
        run(["init", "--quiet", "--bare", "--initial-branch=main", str(tmp_path / name)], tmp_path)
    return tmp_path / "one", tmp_path / "two"


def tree(seed: int, count: int) -> list[Change]:
    """Return a tree of files, links and gitlinks; no name is a file and a directory."""
    chooser = random.Random(seed)
    found: dict[bytes, Change] = {}
    for _ in range(count):
        parts = [chooser.choice(NAMES) + "_" for _ in range(chooser.randrange(3))]
        path = "/".join([*parts, chooser.choice(NAMES)]).encode("utf-8", "surrogateescape")
        mode = chooser.choice([FILE, LINK, LINK, COMMIT])
        data = b"%040x" % chooser.getrandbits(160) if mode == COMMIT else b"%d" % chooser.randrange(20)
        found[path] = Change(path, mode, data if chooser.randrange(9) or mode == COMMIT else data * 5000)
    return sorted(found.values(), key=lambda change: change.path)


def pack(repository: Path, changes: list[Change]) -> str:
    found = PackFile(repository)
    top = found.add_tree(
        (c.path, c.mode or b"", bytes.fromhex(c.data.decode()) if c.mode == COMMIT else found.add(b"blob", c.data))
        for c in changes
    )
    head = found.add(b"commit", commit_object(top, (), IDENTITY, EPOCH, MESSAGE)).hex()
    found.finish()
    run(["update-ref", "refs/heads/main", head], repository)
    return head


@pytest.mark.parametrize(("recent", "far"), [(100_000, 1 << 31), (1, 1 << 31), (3, 500)])
def test_commits_are_those_of_fast_import(repositories, monkeypatch, recent: int, far: int) -> None:
    """``recent`` and ``far`` are made small, as if there were millions of objects and gigabytes."""
    monkeypatch.setattr(pack_file, "_RECENT", recent)
    monkeypatch.setattr(pack_file, "_FAR", far)
    one, two = repositories
    changes = tree(recent, 150)
    commit_changes(one, "refs/heads/main", MESSAGE, EPOCH, changes, None)
    assert pack(two, changes) == resolve(one, "refs/heads/main")
    git("fsck", "--strict", "--full", cwd=two)
    (index,) = two.glob("objects/pack/*.idx")
    listed = git("verify-pack", "-v", index, cwd=two).decode()
    objects = [line for line in listed.splitlines() if " blob " in line or " tree " in line or " commit " in line]
    assert len(objects) == len({line.split()[0] for line in objects})
    assert [path.suffix for path in sorted(two.glob("objects/pack/*"))] == [".idx", ".pack"]
    # git makes the same index of the pack.
    made = two / "again.idx"
    git("index-pack", "-o", made, index.with_suffix(".pack"), cwd=two)
    assert far != 1 << 31 or made.read_bytes() == index.read_bytes()


def test_a_pack_that_is_abandoned_leaves_nothing(repositories) -> None:
    one, _ = repositories
    (one / "objects" / "pack" / "tmp_pack_lading").write_bytes(b"of a killed run")
    found = PackFile(one)
    found.add(b"blob", b"x")
    found.abandon()
    assert list(one.glob("objects/pack/*")) == []


def update(repository: Path, count: int, access: AnnexAccess) -> DatasetUpdate:
    places, keys, changes = KeyPlaces(), {}, []
    for number in range(count):
        key = b"MD5E-s%d--%032x%b" % (number, number, b".dat" if number % 3 else b"")
        keys[b"f%d" % number] = key
        places.add(key, ObjectAddress(f"p/f{number}\udcff", f"v{number}", EPOCH + number % 4))
        changes.append(Change(b"f%d" % number, LINK, b"to " + key))
    dataset = Dataset("zarr", "z", "id", repository, "z")
    changes.sort(key=lambda change: change.path)
    return DatasetUpdate(dataset, access, MESSAGE, EPOCH, None, None, changes, keys, places)


def test_first_and_later_commits_say_the_same(repositories, monkeypatch) -> None:
    """A branch written at once has the files of one that grew; an update that changes nothing writes nothing."""
    monkeypatch.setattr(engine, "_check_key", lambda _: None)
    one, two = repositories
    access = AnnexAccess("bucket", "http://127.0.0.1:9", None)
    assert write_by_import(update(one, 300, access))
    again = update(one, 300, access)
    heads = [resolve(one, f"refs/heads/{name}") for name in ("main", "git-annex")]
    assert not write_by_import(replace(again, parent=heads[0], annex_parent=heads[1], changes=()))
    write_by_import(update(two, 100, access))
    heads = [resolve(two, f"refs/heads/{name}") for name in ("main", "git-annex")]
    assert write_by_import(replace(update(two, 300, access), parent=heads[0], annex_parent=heads[1]))
    for branch in ("main", "git-annex"):
        assert list_tree(one, f"refs/heads/{branch}") == list_tree(two, f"refs/heads/{branch}")
    git("fsck", "--strict", "--full", cwd=one)


def test_a_branch_that_somebody_made_meanwhile_stays(repositories) -> None:
    one, _ = repositories
    made = pack(one, tree(1, 3))
    with pytest.raises(LadingError, match="update-ref"):
        write_by_import(update(one, 0, AnnexAccess("bucket", None, None)))
    assert resolve(one, "refs/heads/main") == made


def test_entries_of_a_commit_that_is_not_there_are_an_error(repositories) -> None:
    with pytest.raises(LadingError, match="ls-tree"):
        list(tree_entries(repositories[0], "0" * 40))


def test_places_of_a_key_are_few_and_come_back() -> None:
    places = KeyPlaces()
    given = [ObjectAddress("a\0b/\udcff", None, 1), ObjectAddress("é", "", 2), ObjectAddress("c", "v\udcff", 3)]
    for place in (*given, ObjectAddress("d", "v", 4)):
        places.add(b"k", place)
    assert dict(places) == {b"k": given}


def test_git_reads_what_was_packed(repositories) -> None:
    one, _ = repositories
    changes = tree(7, 40)
    pack(one, changes)
    for change in changes:
        if change.mode != COMMIT:
            shown = subprocess.run(
                ["git", "cat-file", "blob", b"main:" + change.path], cwd=one, capture_output=True, check=True
            )
            assert shown.stdout == change.data
