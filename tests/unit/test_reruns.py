"""No test is run again because it failed, but for a few that say why; never one that kills or makes faults."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPOSITORY

MOST = 5


def marks(path: Path) -> Iterator[ast.Call | None]:
    """Yield each use of pytest-rerunfailures' mark in a file: its call, None for the bare mark."""
    tree = ast.parse(path.read_bytes())
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "flaky":
            yield calls.get(id(node))


def has_reason(mark: ast.Call | None) -> bool:
    return mark is not None and any(
        word.arg == "reason" and isinstance(word.value, ast.Constant) for word in mark.keywords
    )


def test_at_most_a_few_tests_may_be_run_again_and_say_why() -> None:
    found = {path: list(marks(path)) for path in (REPOSITORY / "tests").rglob("*.py")}
    marked = {path: calls for path, calls in found.items() if calls}
    assert sum(map(len, marked.values())) <= MOST, marked
    for path, calls in marked.items():
        assert "kill" not in str(path.relative_to(REPOSITORY))
        assert "fault" not in path.name
        assert all(map(has_reason, calls)), path


def test_the_plugin_is_there_only_while_a_test_has_its_mark() -> None:
    marked = any(list(marks(path)) for path in (REPOSITORY / "tests").rglob("*.py"))
    assert ("pytest-rerunfailures" in (REPOSITORY / "tests/requirements.txt").read_text()) == marked


def test_nothing_asks_for_reruns_of_all() -> None:
    for name in (".ci/run", "makefile", "pyproject.toml"):
        path = REPOSITORY / name
        assert not path.exists() or "--reruns" not in path.read_text(), name
