"""No retired word in what users read: messages, help, the makefile's list, the portal's pages, documents."""

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lading.cli.main import COMMANDS, main
from tests.conftest import REPOSITORY
from tests.words import prose, retired_words

SOURCES = [
    *(REPOSITORY / name for name in ("find.py", "batch.py", "upload.py", "setup.py")),
    *sorted(path for room in ("lading", "jobs", "demo") for path in (REPOSITORY / room).rglob("*.py")),
]
TEMPLATES = sorted(path for path in (REPOSITORY / "lading").rglob("*") if path.suffix in (".html",))
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
PUN = "bill of lading"  # once, in README.md


def texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each string below a node that is no docstring; what is put into it is left out."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
        yield node.lineno, "".join(map(str, parts))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from texts(part.value)
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    for child in ast.iter_child_nodes(node):
        yield from texts(child)


def is_sentence(text: str) -> bool:
    """Tell whether a string is for people: two words at least, one of them beginning small."""
    return re.search(r"[a-z}>,;:)\d'\"] [a-z{]", text.strip()) is not None


def test_messages_and_help() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}: {word} ({text[:80]!r})"
        for path in SOURCES
        for line, text in texts(ast.parse(path.read_text(encoding="utf-8")))
        if is_sentence(text)
        for word in retired_words(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As it is printed: every argument says what it is, in words that are in use."""
    with suppress(SystemExit):
        main([name, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "``" not in said
    assert retired_words(said) == []


def test_every_argument_has_help() -> None:
    bare = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
        if not any(keyword.arg == "help" for keyword in node.keywords)
    ]
    assert not bare


def test_targets_of_make() -> None:
    lines = (REPOSITORY / "makefile").read_text(encoding="utf-8").splitlines()
    said = [line.partition("##")[2] for line in lines if "##" in line] + [line for line in lines if "(error" in line]
    assert len(said) > 20
    assert [f"{line}: {word}" for line in said for word in retired_words(line)] == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_pages_of_portal_and_report(path: Path) -> None:
    text = re.sub(r"<style>.*?</style>|{[{%].*?[}%]}|<[^>]*>", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert retired_words(text) == []


def test_documents() -> None:
    found = []
    for path in PAGES:
        text = prose(path.read_text(encoding="utf-8"))
        text = text.replace(PUN, "", path.name == "README.md")
        found += [f"{path.relative_to(REPOSITORY)}: {word}" for word in retired_words(text)]
    assert not found, "\n".join(found)


def test_the_check_finds_what_it_is_for() -> None:
    assert len(retired_words("the plan was cut anew, and each object is proven")) == 3
    assert retired_words("there is no file, and it is no longer proved-free `proven`")[0].startswith("'proved'")
    assert retired_words(prose("`proven` and ```carry```\n\n```\ncut\n```\n[x](docs/cut.md) is planned")) == []
