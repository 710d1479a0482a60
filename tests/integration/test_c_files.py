"""The C files: who includes whom, that none ends the process, and that each is sanitized and fuzzed."""

import re
from pathlib import Path

from tests import sanitizing
from tests.conftest import REPOSITORY
from tests.fuzz.targets import TARGETS
from tests.integration.test_sanitized import SUITES

CODE = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def sources() -> list[Path]:
    """The files of the package's extensions; what lading/testing compiles is a program of its own."""
    found = (path for top in ("lading", "jobs") for path in (REPOSITORY / top).rglob("*.c"))
    return sorted(path for path in found if path.parent != REPOSITORY / "lading/testing")


def test_headers_lead_in_one_direction() -> None:
    """A file and its header are one; from each of them no way of includes leads back."""
    below: dict[str, set[str]] = {}
    for path in [*(REPOSITORY / "lading").rglob("*.[ch]"), *(REPOSITORY / "jobs").rglob("*.[ch]")]:
        node = str(path.with_suffix(""))
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
            target = str((path.parent / name).resolve().with_suffix(""))
            if target != node:
                below.setdefault(node, set()).add(target)

    def reach(node: str) -> set[str]:
        found: set[str] = set()
        todo = [node]
        while todo:
            for following in below.get(todo.pop(), set()) - found:
                found.add(following)
                todo.append(following)
        return found

    assert [node for node in below if node in reach(node)] == []


def test_headers_are_the_only_way_to_another_file() -> None:
    for path in sources():
        assert not re.search(r"^\s*extern ", CODE.sub("", path.read_text()), re.MULTILINE), path


def test_a_changed_file_is_built_anew() -> None:
    """The environment's digest and make's stamp look at each of them, wherever it lies."""
    found = {path for top in ("lading", "jobs") for path in (REPOSITORY / top).rglob("*.[ch]")}
    for name, mark in (
        ("lading/environment.py", r'"((?:lading|jobs)/\S*\[ch\])"'),
        ("makefile", r"\$\(lading\)/(\S*\[ch\])"),
    ):
        patterns = re.findall(mark, (REPOSITORY / name).read_text())
        assert {path for pattern in patterns for path in REPOSITORY.glob(pattern)} == found, name


def test_no_library_ends_the_process() -> None:
    for path in [*sources(), *(REPOSITORY / "benchmarks").rglob("*.c"), *(REPOSITORY / "lading/testing").rglob("*.c")]:
        assert not re.search(r"\babort\(", CODE.sub("", path.read_text())), path
    for path in sources():
        assert not re.search(r"\b_?exit\(", CODE.sub("", path.read_text())), path


def test_each_file_is_sanitized_and_fuzzed() -> None:
    built = {source: name for name, module in sanitizing.modules().items() for source in module["sources"]}
    fuzzed = {(target.module, source) for target in TARGETS.values() for source in target.sources}
    assert {str(path.relative_to(REPOSITORY)) for path in sources()} == set(built)
    for source, name in built.items():
        assert name in {suite.module for suite in SUITES}, source
        assert (name, Path(source).name) in fuzzed, source
