"""The shape of the code: one name has one meaning, and no function or class is too long to be read at once."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FUNCTION, CLASS = 60, 250
# What is longer, and why. At most five.
EXCEPTIONS = {
    "lading/crawl/python_walker.py: PythonWalker": "the walk without a compiler, one queue for all it meets",
    "lading/sessions/job_model.py: resolve": "one row through its checks, in the order that a person meets",
    "lading/sessions/task_reading.py: _Reader": "one pass over the settings of a row; its methods are a few lines each",
    "lading/upload/engines/s5cmd.py: S5cmdEngine": "a child process whose life, lines and files are one state",
    "lading/verification/audit.py: Audit": "one pass over two sorted streams; its threads share the findings",
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(REPOSITORY.glob("lading/**/*.py")):
        yield str(path.relative_to(REPOSITORY)), ast.parse(path.read_text(encoding="utf-8"))


def test_public_class_names_are_unique() -> None:
    places = defaultdict(list)
    for name, tree in modules():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_module_names_are_unique() -> None:
    places = defaultdict(list)
    for name, _ in modules():
        if not Path(name).stem.startswith("__"):
            places[Path(name).stem].append(name)
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_nothing_is_too_long() -> None:
    long = {}
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > (CLASS if isinstance(node, ast.ClassDef) else FUNCTION):
                    long[f"{name}: {node.name}"] = lines
    for name, reason in EXCEPTIONS.items():
        print(f"{name}: {long.get(name)} lines: {reason}")
    assert sorted(long) == sorted(EXCEPTIONS)
    assert len(EXCEPTIONS) <= 5


def test_no_walk_passes_over_what_it_cannot_list() -> None:
    """``os.walk`` leaves out a directory that cannot be listed, and says nothing unless it is told to."""
    silent = [
        f"{name}:{node.lineno}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.walk"
        if not any(keyword.arg == "onerror" for keyword in node.keywords)
    ]
    assert not silent
