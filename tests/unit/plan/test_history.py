"""The cut with history: what is proven stays where it is, whatever happens to the tree around it."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.plan.batch_plan import Plan
from lading.plan.bounds import Bounds
from lading.plan.history import History
from lading.plan.ownership import expand
from lading.plan.planner import BatchPlanner, plan_batches
from lading.tree.json_reader import read_tree
from tests.unit.plan.test_planner import NAMES, TREES, leaves, write_tree

Owners = dict[str, tuple[str, int]]  # path → (batch id, size)


def owners(directory: Path, content: Any, cut: BatchPlanner, subdir: str = ".") -> tuple[Plan, Owners]:
    """Return the plan of a cut and who owns each file; raises when a file is owned twice."""
    sha256 = read_tree(directory / "find.json").sha256
    plan = Plan("/data", (subdir,), {"tree": "find.json", "tree_sha256": sha256}, cut.batches, cut.oversize)
    found: Owners = {}
    for batch, files in expand(plan, directory):
        for path, size, _ in files:
            assert path not in found
            found[path] = (batch.id, size)
    assert {path: size for path, (_, size) in found.items()} == {
        path: size for path, size in leaves(content).items() if subdir == "." or path.startswith(subdir + "/")
    }
    return plan, found


def judge_by(proven: dict[str, int]) -> Any:
    """Return a judge that knows the proven sizes."""

    def judge(paths: Sequence[str], sizes: Sequence[int], times: Any) -> Any:
        return np.array([proven.get(path) == size for path, size in zip(paths, sizes)], dtype=bool)

    return judge


def change(content: Any, chance: random.Random, rate: float, names: Sequence[str]) -> Any:
    """Return a tree with some files added, grown, removed or renamed, and some directories too."""
    changed: dict[str, Any] = {}
    for name, below in content.items():
        draw = chance.random() / rate
        if draw < 0.2:
            continue
        if draw < 0.4:
            name = chance.choice(names)
        if isinstance(below, dict):
            changed[name] = change(below, chance, rate, names)
        else:
            changed[name] = (below[0], below[1] + (chance.randrange(1, 90) if draw > 0.4 and draw < 0.7 else 0))
        if 0.7 < draw < 1:
            changed[chance.choice(names)] = (1, chance.randrange(60))
    return changed


@settings(max_examples=300, deadline=None)
@given(
    content=TREES,
    names=st.lists(NAMES, min_size=3, max_size=8),
    seed=st.integers(0, 2**32),
    rate=st.sampled_from([0.02, 0.2, 0.9]),
    share=st.sampled_from([0.1, 0.6, 1.0]),
    scattered=st.booleans(),
    least=st.integers(0, 60),
    more=st.integers(1, 100),
    most_files=st.none() | st.integers(1, 6),
)
def test_what_is_proven_stays(
    tmp_path_factory: pytest.TempPathFactory,
    content: Any,
    names: list[str],
    seed: int,
    rate: float,
    share: float,
    scattered: bool,
    least: int,
    more: int,
    most_files: int | None,
) -> None:
    directory = tmp_path_factory.getbasetemp() / "history"
    directory.mkdir(exist_ok=True)
    chance = random.Random(seed)
    bounds = Bounds(least, least + more, most_files)
    tree = read_tree(write_tree(directory, content)).tree
    plan, before = owners(directory, content, plan_batches(tree, bounds, ["."], []))
    proven: dict[str, int] = {}
    for _ in range(3):  # each round sends some, changes the tree, cuts again
        chosen = {batch.id for batch in plan.batches if chance.random() < share}
        for path, (batch, size) in before.items():
            if chance.random() < share if scattered else batch in chosen:
                proven[path] = size
        content = change(content, chance, rate, names)
        tree = read_tree(write_tree(directory, content)).tree
        cut = plan_batches(tree, bounds, ["."], [], History(plan, judge_by(proven)))
        again = plan_batches(tree, bounds, ["."], [], History(plan, judge_by(proven)))
        assert cut == again
        old_ids = {batch.id: batch.paths for batch in plan.batches}
        plan, after = owners(directory, content, cut)
        for path, (batch, size) in after.items():
            if proven.get(path) == size and path in before:
                assert before[path][0] == batch, "a proven file moved"
        for number, batch in enumerate(plan.batches):
            if number < cut.kept:
                assert old_ids[batch.id] == batch.paths
            else:
                assert batch.size <= bounds.most or batch.files == 1
                assert batch.files <= bounds.file_room
        # Nothing changed since: cutting once more keeps everything that is proven, and ids with it.
        twice = plan_batches(tree, bounds, ["."], [], History(plan, judge_by(proven)))
        assert owners(directory, content, twice)[1].keys() == after.keys()
        before = after


def test_only_new_and_changed_files_form_new_batches(tmp_path: Path) -> None:
    content = {f"d{i:02d}": {f"f{j:02d}": (1, 10) for j in range(20)} for i in range(20)}
    bounds = Bounds(100, 1000)
    cut = plan_batches(read_tree(write_tree(tmp_path, content)).tree, bounds, ["."], [])
    plan, _ = owners(tmp_path, content, cut)
    proven = leaves(content)
    content["d05"]["f03"] = (1, 11)  # changed
    content["d07"]["f99"] = (1, 12)  # new
    content["d99"] = {"x": (1, 13)}  # new
    del content["d10"]["f01"]
    again = plan_batches(
        read_tree(write_tree(tmp_path, content)).tree, bounds, ["."], [], History(plan, judge_by(proven))
    )
    assert [batch.id for batch in again.batches[: again.kept]] == [batch.id for batch in cut.batches]
    assert again.kept == 4
    (new,) = again.batches[again.kept :]
    assert set(new.paths) == {"d05/f03", "d07/f99", "d99/"}
    assert (new.files, new.size) == (3, 36)


def test_a_half_sent_batch_keeps_the_rest_of_its_files(tmp_path: Path) -> None:
    content = {f"d{i:02d}": {f"f{j:02d}": (1, 10) for j in range(20)} for i in range(20)}
    bounds = Bounds(100, 1000)
    cut = plan_batches(read_tree(write_tree(tmp_path, content)).tree, bounds, ["."], [])
    plan, before = owners(tmp_path, content, cut)
    first = plan.batches[0].id
    proven = {path: size for path, (batch, size) in before.items() if batch == first and path.endswith("7")}
    assert 0 < len(proven) < plan.batches[0].files
    content["new"] = {"x": (1, 13)}
    again = plan_batches(
        read_tree(write_tree(tmp_path, content)).tree, bounds, ["."], [], History(plan, judge_by(proven))
    )
    assert again.kept == 1
    assert again.batches[0] == plan.batches[0]


def test_a_smaller_selection_leaves_out_what_was_proven_elsewhere(tmp_path: Path) -> None:
    content = {"a": {f"f{j:02d}": (1, 10) for j in range(20)}, "b": {f"f{j:02d}": (1, 10) for j in range(20)}}
    bounds = Bounds(0, 10_000)
    tree = read_tree(write_tree(tmp_path, content)).tree
    plan, _ = owners(tmp_path, content, plan_batches(tree, bounds, ["."], []))
    history = History(plan, judge_by(leaves(content)))
    cut = plan_batches(tree, bounds, ["b"], [], history)
    assert (cut.files, cut.kept, len(cut.batches)) == (20, 1, 1)
    owners(tmp_path, content, cut, "b")
