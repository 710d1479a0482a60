"""batch.json: the same plan back, every damage refused, names of any kind."""

import os
from pathlib import Path
from typing import Any

import pytest

from lading.core.errors import ConsistencyError, UsageError
from lading.plan.batch_plan import Batch, NameRange, Plan, batch_id, read_plan, write_plan
from lading.plan.ownership import expand, owned_spans
from lading.plan.spans import find_span
from lading.tree.json_reader import read_tree
from lading.tree.size_tree import FlatTree
from lading.tree.tree_index import TreeIndex
from tests.conftest import ODD_NAMES
from tests.unit.plan.test_planner import write_tree

ENTRIES = ("a/", "b/f\udcff", NameRange("c/", "1", "\u65e5"), NameRange("d/", "x/", "y/"))
PLAN = Plan(
    "/data", ("a", "b"), {"tree": "find.json", "tree_sha256": "0" * 64},
    (Batch(batch_id(ENTRIES), 10, 3, ENTRIES), Batch(batch_id(["e/"]), 0, 1, ("e/",))), ("b/f\udcff",),
)  # fmt: skip


def test_the_same_plan_back(tmp_path: Path) -> None:
    path = tmp_path / "batch.json"
    write_plan(path, PLAN)
    assert read_plan(path) == PLAN
    assert path.read_bytes().isascii()


def test_ids_depend_on_entries_and_nothing_else() -> None:
    assert batch_id(ENTRIES) == batch_id(ENTRIES)
    assert len({batch_id(ENTRIES[:n]) for n in range(5)}) == 5
    assert batch_id([NameRange("c/", "1", "2")]) != batch_id([NameRange("c/", "1/", "2/")])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: "[]", "not a plan"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "format 9"),
        (lambda text: text.replace('"a/"', '"z/"'), "edited"),
        (lambda text: text.replace('"to":"', '"until":"'), "not an entry"),
        (lambda text: text.replace('"files"', '"fils"'), "files"),
    ],
)
def test_damage_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "batch.json"
    write_plan(path, PLAN)
    path.write_text(change(path.read_text()))
    with pytest.raises(UsageError, match=said):
        read_plan(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is missing"):
        read_plan(tmp_path / "batch.json")


def plan_over(directory: Path, content: Any, *batches: Any) -> Plan:
    sha256 = read_tree(write_tree(directory, content)).sha256
    made = tuple(Batch(batch_id(paths), size, files, tuple(paths)) for size, files, paths in batches)
    return Plan("/data", (".",), {"tree": "find.json", "tree_sha256": sha256}, made, ())


TREE = {"d": {"a": (1, 1), "b": (1, 2), "c": (1, 4), "s": {"x": (1, 8)}, "t": {"y": (1, 16)}}, "e": (1, 32)}


def test_the_nearest_entry_decides(tmp_path: Path) -> None:
    batches = [
        (33, 2, ["./"]),  # what nobody else claims: e and d/a
        (16, 1, ["d/t/"]),
        (8, 1, [NameRange("d/", "s/", "t/")]),
        (4, 1, [NameRange("d/", "b", "c")]),
        (2, 1, ["d/b"]),
    ]
    plan = plan_over(tmp_path, TREE, *batches)
    found = [[path for path, _, _ in files] for _, files in expand(plan, tmp_path)]
    assert found == [["d/a", "e"], ["d/t/y"], ["d/s/x"], ["d/c"], ["d/b"]]


def test_the_later_batch_wins_a_tie(tmp_path: Path) -> None:
    plan = plan_over(tmp_path, TREE, (61, 5, ["./"]), (0, 0, ["d/b", "gone/"]), (2, 1, ["d/b"]))
    assert [[path for path, _, _ in files] for _, files in expand(plan, tmp_path)][1:] == [[], ["d/b"]]


def test_chosen_batches_only(tmp_path: Path) -> None:
    plan = plan_over(tmp_path, TREE, (61, 5, ["./"]), (2, 1, ["d/b"]))
    chosen = [plan.batches[1]]
    assert [(batch.id, list(files)) for batch, files in expand(plan, tmp_path, chosen)] == [
        (chosen[0].id, [("d/b", 2, None)])
    ]


def test_sums_that_do_not_match_the_tree(tmp_path: Path) -> None:
    plan = plan_over(tmp_path, TREE, (99, 6, ["./"]))
    (_, files), *_ = expand(plan, tmp_path)
    with pytest.raises(ConsistencyError, match="6 files of 63 bytes"):
        list(files)


def test_crossing_ranges_are_refused() -> None:
    with pytest.raises(ConsistencyError, match="overlap"):
        owned_spans([(0, 5, 0), (3, 8, 1)])


def test_paths_both_ways(tmp_path: Path) -> None:
    names = [os.fsdecode(name) for name in ODD_NAMES]
    content = {"odd": dict.fromkeys(names, (1, 1)), "deep": {name: {"f": (1, 1)} for name in names}}
    tree: FlatTree = read_tree(write_tree(tmp_path, content)).tree
    tree_index = TreeIndex(tree)
    for path, node in tree.files():
        assert tree_index.path(node) == path
        assert find_span(tree_index, path) == (node, node + 1)
    for name in names:
        node = tree_index.directory(f"deep/{name}")
        assert node is not None
        assert tree_index.path(node) == f"deep/{name}/"
        assert find_span(tree_index, f"deep/{name}/") == (node, tree.ends[node])
    assert tree_index.path(0) == "./"
    assert find_span(tree_index, "./") == (0, len(tree))
    assert find_span(tree_index, "odd/none") == find_span(tree_index, "none/") == (0, 0)
