"""``make docs``: write the pages of docs/reference that follow from the code, so that they cannot drift from it.

Input: the parsers of every command, the exit codes, the makefile. Output:
Markdown: a page per command, the settings and targets of make, the exit codes.
Invariant: equal code gives equal bytes; every flag of every parser is on a
page. ``--check`` writes nothing and ends with 4 when a page is out of date.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from unittest import mock

from lading.cli.main import COMMANDS
from lading.core import exit_codes
from lading.core.command_line import Parser, run_main
from lading.core.errors import ConsistencyError, LadingError

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ROOT / "docs" / "reference"
REWRITE = "make reference"
NOTE = f"<!-- Written by `{REWRITE}` from the code: change the code, not this page. -->"
KINDS = ("ephys", "imaging", "video", "generic")
# Of a page whose command has more than one parser: what each further one is called by.
FORMS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "verify": [(), ("--manifest", "M")],
    "compress": [(), *(("--kind", kind) for kind in KINDS)],
    "jobs": [(name,) for name in ("check", "explain", "run", "status", "cancel")],
}
LEFT_OUT = {"compress": {"-h", "--help"}}


class _Seen(Exception):
    """A parser was asked for its help."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(name: str, words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser that a command makes of these words."""

    def seen(parser: argparse.ArgumentParser, file: object = None) -> None:
        raise _Seen(parser)

    command = COMMANDS[name]
    before = Parser.called_as
    Parser.called_as = command.program, command.called.format(name)
    try:
        with mock.patch.object(argparse.ArgumentParser, "print_help", seen):
            import_module(command.module_for(words)).main([*command.before, *words, "--help"])
    except _Seen as found:
        return found.parser
    finally:
        Parser.called_as = before
    raise LadingError(f"lading {name} {' '.join(words)} has no parser")


def _cell(text: str) -> str:
    """Return a text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _code(text: str) -> str:
    """Return a text as code in a cell."""
    return "`" + text.replace("|", "\\|") + "`"


def _value(action: argparse.Action) -> str:
    """Return how the value of a flag is written: nothing for a switch."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return ""
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def _name(action: argparse.Action) -> str:
    """Return the first cell of a flag or an argument."""
    value = _value(action)
    if not action.option_strings:
        return _code(str(action.metavar or action.dest))
    value = f"[{value}]" if value and action.nargs == "?" else value
    return ", ".join(_code(f"{flag} {value}".strip()) for flag in action.option_strings)


def _help(action: argparse.Action, prog: str) -> str:
    """Return the second cell: the flag's help, and its default where the help does not say it."""
    if not action.help:
        return "–"
    return _cell(action.help % {**vars(action), "prog": prog})


def _rows(actions: Sequence[argparse.Action], prog: str) -> list[str]:
    rows = []
    for action in actions:
        if action.help == argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        if isinstance(action, argparse._SubParsersAction):
            continue
        rows.append(f"| {_name(action)} | {_help(action, prog)} |")
    return rows


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Yield name, summary and parser of each subcommand, without its other names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest.split(" ")[0]: choice.help or "" for choice in action._choices_actions}
            known: set[int] = set()
            for name, below in action.choices.items():
                if id(below) not in known:
                    known.add(id(below))
                    yield name, summaries.get(name, ""), below


def describe_parser(parser: argparse.ArgumentParser, without: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the lines on one parser: its arguments and flags as tables; ``without`` names flags told before."""
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not without.intersection(action.option_strings)]
        actions = [action for action in actions if action.option_strings or not without]
        rows = _rows(actions, parser.prog)
        if not rows:
            continue
        title = "argument" if group.title == "positional arguments" else "flag"
        if group.title not in ("positional arguments", "options"):
            yield from (f"**{group.title}**" + (f": {group.description}" if group.description else ""), "")
        yield from (f"| {title} | meaning |", "|---|---|", *rows, "")


def _codes(parser: argparse.ArgumentParser) -> str:
    codes = sorted({*exit_codes.ALWAYS, *getattr(parser, "_codes", ())})
    return "Exit codes: " + ", ".join(map(str, codes)) + "; see [Exit codes](../exit-codes.md)."


def command_page(name: str) -> str:
    """Return the page of one command."""
    command = COMMANDS[name]
    summary = command.summary.rstrip(".")
    lines = [NOTE, "", f"# lading {name}", "", f"{summary[0].upper()}{summary[1:]}.", ""]
    if command.extras:
        extras = " and ".join(f"`{extra}`" for extra in command.extras)
        lines += [f"Needs the extra {extras}.", ""]
    told: frozenset[str] = frozenset()
    parser = parser_of(name, FORMS.get(name, [()])[0])
    for words in FORMS.get(name, [()]):
        parser = parser_of(name, words)
        usage = " ".join(parser.format_usage().split()).removeprefix("usage: ") if not told else ""
        if words:
            lines += [f"## lading {' '.join([name, *words])}", ""]
        if name == "jobs" and parser.description:
            lines += [f"{parser.description.rstrip('.')}.", ""]
        if usage and not any(_subparsers(parser)):
            positional = " ".join(_shown(action) for action in parser._actions if not action.option_strings)
            lines += ["```text", f"{parser.prog} [flags] {positional}".rstrip(), "```", ""]
        lines += describe_parser(parser, told)
        if name == "compress":
            told |= {flag for action in parser._actions for flag in action.option_strings}
    for verb, said, below in _subparsers(parser):
        lines += [f"## lading {name} {verb}", ""]
        lines += [f"{said[0].upper()}{said[1:]}.", ""] if said else []
        lines += describe_parser(below)
    return "\n".join([*lines, _codes(parser)]) + "\n"


def _shown(action: argparse.Action) -> str:
    """Return a positional argument as the usage line shows it."""
    name = str(action.metavar or action.dest)
    return f"[{name}]" if action.nargs in ("?", "*") else name


def commands_page() -> str:
    """Return the page that lists the commands."""
    rows = [f"| [`lading {name}`]({name}.md) | {_cell(command.summary)} |" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            NOTE,
            "",
            "# Commands",
            "",
            "Each command has `--help`, which ends in its exit codes. `lading --version` prints version and commit.",
            "",
            "| command | does |",
            "|---|---|",
            *rows,
            "",
            "The scripts `find.py`, `batch.py` and `upload.py` have the flags of `lading find`, `lading batch` and",
            "`lading upload`. `python3 -m jobs` is `lading jobs`.",
            "",
        ]
    )


def exit_codes_page() -> str:
    """Return the page on exit codes."""
    rows = [f"| {code} | {_cell(meaning)} |" for code, meaning in exit_codes.MEANINGS.items()]
    return "\n".join(
        [
            NOTE,
            "",
            "# Exit codes",
            "",
            "A code means the same in every command, and its meaning never changes.",
            "",
            "| code | meaning |",
            "|---|---|",
            *rows,
            "",
            "`make` ends with 2 whatever the code was. Cron, Slurm and Airflow therefore call `lading` itself, or the",
            "command that `make TARGET print=1` prints.",
            "",
        ]
    )


def read_makefile() -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Return settings (name, default, meaning) and targets (name, what it does) of the makefile.

    A line ``#: meaning`` before a setting's default says what the setting is.
    """
    text = (ROOT / "makefile").read_text(encoding="utf-8")
    listed = re.search(r"^settings := ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert listed is not None
    names = listed[1].replace("\\", " ").split()
    settings = []
    for name in names:
        found = re.search(rf"^#: (.*(?:\n#: .*)*)\n{name}\s*\?=[ ]*(.*)$", text, re.MULTILINE)
        if found:
            settings.append((name, found[2].strip(), found[1].replace("\n#: ", " ")))
            continue
        # A setting without a default: its line is alone, and names it.
        found = re.search(rf"^#: {name}: (.*)$", text, re.MULTILINE)
        if not found:
            raise LadingError(f"makefile: the setting {name} has no line '#: what it is' before its default")
        settings.append((name, "", found[1]))
    return settings, re.findall(r"^([a-z][a-z.-]*):.*?## (.*)$", text, re.MULTILINE)


def settings_page() -> str:
    """Return the page on make: its targets and settings."""
    settings, targets = read_makefile()
    return "\n".join(
        [
            NOTE,
            "",
            "# Targets and settings of make",
            "",
            "A setting comes from the command line, else the environment, else `config.mk`, else the default.",
            "`lading config` shows each setting with its value and origin.",
            "[How settings are read](index.md#settings) has the rules.",
            "",
            "## Targets",
            "",
            "| target | does |",
            "|---|---|",
            *(f"| `make {name}` | {_cell(what)} |" for name, what in targets),
            "",
            "## Settings",
            "",
            "| setting | meaning | default |",
            "|---|---|---|",
            *(
                f"| `{name}` | {_cell(meaning)} | {_code(value) if value else '–'} |"
                for name, value, meaning in settings
            ),
            "",
        ]
    )


def pages() -> dict[str, str]:
    """Return every generated page by its name below docs/reference."""
    written = {"settings.md": settings_page(), "exit-codes.md": exit_codes_page(), "commands/index.md": commands_page()}
    return written | {f"commands/{name}.md": command_page(name) for name in COMMANDS}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages, or check them."""
    parser = Parser(prog=REWRITE, description="Write the pages of docs/reference that follow from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 4 when a page is out of date")
    arguments = parser.parse_args(argv)
    wanted = pages()
    stale = [name for name, text in wanted.items() if _read(PAGES / name) != text]
    unknown = sorted(path.name for path in (PAGES / "commands").glob("*.md") if f"commands/{path.name}" not in wanted)
    if arguments.check:
        if stale or unknown:
            raise ConsistencyError(f"out of date: {', '.join([*stale, *unknown])}; run {REWRITE}")
        return exit_codes.DONE
    (PAGES / "commands").mkdir(parents=True, exist_ok=True)
    for name in unknown:
        (PAGES / "commands" / name).unlink()
    for name in stale:
        (PAGES / name).write_text(wanted[name], encoding="utf-8")
    return exit_codes.DONE


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(run_main(main))
