"""The generated pages of docs/reference are those that the code of today gives."""

import argparse

import pytest

from lading.cli import reference_pages
from lading.cli.main import COMMANDS
from lading.core.exit_codes import MEANINGS


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference_pages.pages()


def test_the_pages_are_what_is_committed(pages: dict[str, str]) -> None:
    stale = [name for name, text in pages.items() if reference_pages._read(reference_pages.PAGES / name) != text]
    there = {f"commands/{path.name}" for path in (reference_pages.PAGES / "commands").glob("*.md")}
    assert not stale, "run make reference"
    assert there == {name for name in pages if name.startswith("commands/")}, "run make reference"


def test_every_flag_of_a_command_is_on_its_page(pages: dict[str, str]) -> None:
    for name in COMMANDS:
        for words in reference_pages.FORMS.get(name, [()]):
            for action in reference_pages.parser_of(name, words)._actions:
                if action.help != argparse.SUPPRESS and "--help" not in action.option_strings:
                    for flag in action.option_strings:
                        assert f"`{flag}" in pages[f"commands/{name}.md"], name


def test_every_setting_and_exit_code_is_on_its_page(pages: dict[str, str]) -> None:
    settings, targets = reference_pages.read_makefile()
    assert len(settings) > 40
    assert len(targets) > 20
    assert all(f"| `{name}` |" in pages["settings.md"] for name, _, _ in settings)
    assert all(f"| {code} |" in pages["exit-codes.md"] for code in MEANINGS)
