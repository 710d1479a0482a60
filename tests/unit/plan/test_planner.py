"""The cut: every selected file in exactly one batch, within the bounds, reproducibly."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.core.atomic import AppendLog
from lading.core.errors import ConsistencyError, UsageError
from lading.journal.records import VerificationRecord, encode_header, encode_verification
from lading.plan.batch_plan import Plan, batch_id, decode_entry, encode_entry, encode_plan, read_plan
from lading.plan.bounds import Bounds
from lading.plan.ownership import expand
from lading.plan.planner import plan_batches
from lading.testing.generated_trees import SHAPES, write
from lading.tree.json_reader import read_tree
from lading.tree.size_tree import TreeMeta, write_meta

# [name, 0, child…] or [name, 1, size]: turned into the text of a find.json below.
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0") | st.sampled_from("\udc80\udcff"), min_size=1, max_size=3
)
NAMES = NAMES.filter(lambda name: name not in (".", "..") and os.fsdecode(os.fsencode(name)) == name)
LEAVES = st.tuples(st.sampled_from([1, 1, 1, 1, 2, -1]), st.one_of(st.integers(0, 40), st.integers(0, 400)))
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=12),
    lambda below: st.dictionaries(NAMES, st.one_of(LEAVES, below), max_size=6),
    max_leaves=40,
)


def encode(name: str, content: Any) -> list[Any]:
    """Return the nested lists of a tree of dicts: the oracle of find.json."""
    if isinstance(content, tuple):
        kind, size = content
        return [name, kind, size if kind == 1 else 0]
    children = sorted((encode(*item) for item in content.items()), key=lambda node: (node[1], node[0]))
    return [name, 0, sum(child[2] for child in children), *children]


def write_tree(directory: Path, content: Any, root: str = "/data") -> Path:
    """Write find.json and find.meta.json of a tree of dicts."""
    text = (json.dumps(encode("data", content), separators=(",", ":")) + "\n").encode()
    (directory / "find.json").write_bytes(text)
    meta = TreeMeta(root, {}, hashlib.sha256(text).hexdigest(), 0, 0, 0, 0, 0, 0, "", "", ())
    write_meta(directory / "find.meta.json", meta)
    return directory / "find.json"


def leaves(content: Any, prefix: str = "") -> dict[str, int]:
    """Return {path: size} of the files of a tree of dicts."""
    found = {}
    for name, below in content.items():
        if isinstance(below, dict):
            found |= leaves(below, f"{prefix}{name}/")
        elif below[0] == 1:
            found[prefix + name] = below[1]
    return found


@settings(max_examples=300, deadline=None)
@given(content=TREES, least=st.integers(0, 60), more=st.integers(1, 100), most_files=st.none() | st.integers(1, 6))
def test_every_file_in_exactly_one_batch(
    tmp_path_factory: pytest.TempPathFactory, content: Any, least: int, more: int, most_files: int | None
) -> None:
    directory = tmp_path_factory.getbasetemp() / "property"
    directory.mkdir(exist_ok=True)
    found = read_tree(write_tree(directory, content))
    bounds = Bounds(least, least + more, most_files)
    cut = plan_batches(found.tree, bounds, ["."], [])
    plan = Plan("/data", (".",), {"tree": "find.json", "tree_sha256": found.sha256}, cut.batches, cut.oversize)
    members: dict[str, int] = {}
    for _, files in expand(plan, directory):
        got = list(files)
        assert got, "a batch holds something"
        assert sum(size for _, size, _ in got) <= bounds.most or len(got) == 1
        assert most_files is None or len(got) <= most_files
        for path, size, _ in got:
            assert path not in members
            members[path] = size
    assert members == leaves(content)
    small = [batch for batch in cut.batches if batch.size < least]
    for batch in small:
        for other in cut.batches:
            together = batch.size + other.size <= bounds.most and batch.files + other.files <= bounds.file_room
            assert batch is other or not together
    largest = max((size for size in members.values() if size <= bounds.most), default=0)
    if most_files is None and (least * 2 <= bounds.most or largest <= bounds.most - least):
        assert len(small) <= 1, "only the remainder may be below the least size"
    assert len(cut.batches) >= cut.least
    assert len({batch.id for batch in cut.batches}) == len(cut.batches)
    assert cut == plan_batches(read_tree(directory / "find.json").tree, bounds, ["."], [])
    for batch in cut.batches:
        assert batch.id == batch_id([decode_entry(json.loads(json.dumps(encode_entry(e)))) for e in batch.paths])


TREE = {
    "a": {"x": (1, 10), "y": (1, 20), "b": {"z": (1, 30)}},
    "a2": {"x": (1, 40)},
    "c": {f"{i:03d}": (1, 1) for i in range(100)},
    "big": (1, 500),
    "link": (2, 0),
}


def batch(run: Any, directory: Path, *flags: str) -> Any:
    return run(
        "batch.py", "/data", "--file-tree", directory / "find.json", "-o", directory / "batch.json",
        "--min-batch-size", "10", "--max-batch-size", "60", *flags,
    )  # fmt: skip


def members(directory: Path) -> set[str]:
    return {path for _, files in expand(read_plan(directory / "batch.json"), directory) for path, _, _ in files}


def test_command_line(run: Any, tmp_path: Path) -> None:
    write_tree(tmp_path, TREE)
    result = batch(run, tmp_path)
    assert result.returncode == 0, result.stderr
    assert members(tmp_path) == set(leaves(TREE))
    plan = read_plan(tmp_path / "batch.json")
    assert plan.oversize == ("big",)
    assert plan.root == "/data"
    before = (tmp_path / "batch.json").read_bytes()
    assert batch(run, tmp_path).returncode == 0
    assert (tmp_path / "batch.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--subdir", "a"], ["a/"]),
        (["--subdir", "a", "--subdir", "./a2/"], ["a/", "a2/"]),
        (["--subdir", "/data/a", "--subdir", "/data//a2/"], ["a/", "a2/"]),
        (["--subdir", "a/b", "--subdir", "a"], ["a/"]),
        (["--subdir", "a", "--subdir", "."], [""]),
    ],
)
def test_subdirectories(run: Any, tmp_path: Path, flags: list[str], wanted: list[str]) -> None:
    write_tree(tmp_path, TREE)
    result = batch(run, tmp_path, *flags)
    assert result.returncode == 0, result.stderr
    assert members(tmp_path) == {path for path in leaves(TREE) if path.startswith(tuple(wanted))}


@pytest.mark.parametrize(
    ("globs", "gone"),
    [
        (["x"], {"a/x", "a2/x"}),
        (["a/b"], {"a/b/z"}),
        (["0*", "b*"], None),
        (["c/00?"], {f"c/00{i}" for i in range(10)}),
    ],
)
def test_exclude(run: Any, tmp_path: Path, globs: list[str], gone: set[str] | None) -> None:
    write_tree(tmp_path, TREE)
    assert batch(run, tmp_path, *(f"--exclude={glob}" for glob in globs)).returncode == 0
    wanted = set(leaves(TREE)) - (gone or {"a/b/z", "big", *(f"c/{i:03d}" for i in range(100))})
    assert members(tmp_path) == wanted


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--subdir", "nope"], "'nope' is not in the tree"),
        (["--subdir", "a/x"], "'a/x' is not in the tree"),
        (["--subdir", "../a"], "must be below ROOT"),
        (["--subdir", "/database/a"], "must be below ROOT"),
        (["--min-batch-size", "1T"], "above --max-batch-size"),
        (["--max-batch-size", "10X"], "'10X' is not a size"),
        (["--max-batch-size", "0", "--min-batch-size", "0"], "is too small"),
        (["--max-batch-files", "0"], "at least 1"),
        (["--max-batch-files", "many"], "--max-batch-files"),
    ],
)
def test_bad_flags(run: Any, tmp_path: Path, flags: list[str], said: str) -> None:
    write_tree(tmp_path, TREE)
    result = batch(run, tmp_path, *flags)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "batch.json").exists()


def test_artefacts_that_disagree(run: Any, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, TREE)
    assert batch(run, tmp_path).returncode == 0
    plan = read_plan(tmp_path / "batch.json")
    other = run("batch.py", "/elsewhere", "--file-tree", tree, "-o", tmp_path / "x.json")
    assert other.returncode == 4
    assert "'/data'" in other.stderr
    write_tree(tmp_path, {**TREE, "new": (1, 1)})
    with pytest.raises(ConsistencyError, match="changed since"):
        next(expand(plan, tmp_path))
    tree.write_bytes(tree.read_bytes().replace(b"a2", b"a3"))
    edited = batch(run, tmp_path)
    assert edited.returncode == 4
    assert "edited" in edited.stderr
    tree.unlink()
    with pytest.raises(UsageError, match="missing"):
        next(expand(plan, tmp_path))
    assert batch(run, tmp_path).returncode == 2


@pytest.mark.parametrize("shape", ["many small", "zarr"])
def test_a_plan_is_small(tmp_path: Path, shape: str) -> None:
    """At most 1 % of find.json with 6,000 files a batch, 3 % with 600."""
    path = write(tmp_path, SHAPES[shape](60_000))
    tree = read_tree(path).tree
    for count in (10, 100):
        bounds = Bounds(0, tree.sizes[0] // count)
        cut = plan_batches(tree, bounds, ["."], [])
        assert cut.least <= len(cut.batches) <= max(cut.least, 1.02 * cut.least)
        text = "".join(encode_plan(Plan("/data", (".",), {}, cut.batches, cut.oversize)))
        assert len(text) <= path.stat().st_size * (0.01 if count == 10 else 0.03)


def test_a_flat_directory_by_number_of_files(run: Any, tmp_path: Path) -> None:
    write_tree(tmp_path, {"store.zarr": {f"{n // 100}.{n % 100}": (1, 1) for n in range(10_000)}})
    assert batch(run, tmp_path, "--max-batch-files", "500", "--max-batch-size", "1G").returncode == 0
    plan = read_plan(tmp_path / "batch.json")
    assert [found.files for found in plan.batches] == [500] * 20
    assert all(len(found.paths) == 1 for found in plan.batches)
    assert len(members(tmp_path)) == 10_000


def test_an_earlier_plan_that_is_damaged(run: Any, tmp_path: Path) -> None:
    write_tree(tmp_path, TREE)
    (tmp_path / "journal").mkdir()
    with AppendLog(tmp_path / "journal" / "w.jsonl") as log:
        log.append([encode_header("w", "s3://bucket/", None, "/data", "2026-01-01T00:00:00Z")])
    (tmp_path / "batch.json").write_text("{")
    result = batch(run, tmp_path)
    assert result.returncode == 2
    assert "--fresh" in result.stderr
    assert batch(run, tmp_path, "--fresh").returncode == 0
    assert members(tmp_path) == set(leaves(TREE))
    other = tmp_path / "other"
    other.mkdir()
    write_tree(other, TREE, "/elsewhere")
    elsewhere = ["batch.py", "/elsewhere", "--file-tree", other / "find.json", "-o", tmp_path / "batch.json"]
    assert run(*elsewhere).returncode == 0, "the same release by another path"
    with AppendLog(tmp_path / "journal" / "w.jsonl") as log:
        log.append([encode_verification(VerificationRecord("gone", 1, 1, "e", "", None, None, None, "etag", "b"))])
    wrong = run(*elsewhere, "--upload-root", "/elsewhere")
    assert wrong.returncode == 4
    assert "entries differ: gone;" in wrong.stderr
    assert "directory of its own" in wrong.stderr
