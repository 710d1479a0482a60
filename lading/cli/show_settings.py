"""``lading config``: each setting of make, its value, and where it comes from.

Input: the settings as make sees them in the directory where this runs, with
those that are given as ``NAME=VALUE``. Output: a line per setting, or with
``--json`` one object.
Invariant: changes nothing. Make alone knows what it takes from where, so it
is asked; it calls this again with the answers in the environment.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lading.core.command_line import Parser, blot_secrets, printable
from lading.core.errors import UsageError

MAKEFILE = Path(__file__).resolve().parents[2] / "makefile"
HERE = "config.mk"
WIDTH = 17


@dataclass(frozen=True)
class Setting:
    """One setting: ``origin`` is the command line, the environment, a file, or the default."""

    name: str
    value: str
    origin: str


def read_settings(environment: Mapping[str, str]) -> list[Setting]:
    """Return the settings that make wrote into the environment."""
    words = {name: environment.get(f"lading_{name}", "").split() for name in ("line", "env", "here", "site", "leak")}
    site = environment.get("lading_file", "the checkout's config.mk")
    found = []
    for name in environment.get("lading_settings", "").split():
        origin = "default"
        if name in words["line"]:
            origin = "command line"
        elif name in words["site"]:
            refused = (
                " (refused: this setting belongs to one release, and that file is for all)"
                if name in words["leak"]
                else ""
            )
            origin = site + refused
        elif name in words["here"]:
            origin = os.path.abspath(HERE)
        elif name in words["env"]:
            origin = "environment"
        found.append(Setting(name, environment.get(f"lading_value_{name}", ""), origin))
    return found


def show(settings: Sequence[Setting]) -> None:
    """Print a line per setting: a name, its value as make takes it, and its origin."""
    for setting in settings:
        value = printable(blot_secrets(setting.value)) or "(none)"
        print(f"{setting.name:<{WIDTH}} {value}  [{printable(setting.origin)}]")


def ask_make(given: Sequence[str], as_json: bool) -> int:
    """Have make say what it takes; returns its exit code, which is ours."""
    if not MAKEFILE.exists():
        raise UsageError("settings belong to make, and this installation has no makefile; run this from a checkout")
    wrong = next((word for word in given if "=" not in word or word.startswith("-")), None)
    if wrong is not None:
        raise UsageError(f"{wrong!r} is not a setting; write it like root=/data")
    environment = {**os.environ, "lading_python": sys.executable, "lading_json": "1" if as_json else ""}
    command = ["make", "-s", "--no-print-directory", "-f", str(MAKEFILE), "config", *given]
    try:
        return subprocess.run(command, check=False, env=environment).returncode
    except FileNotFoundError as error:
        raise UsageError("make is not installed here, and settings belong to make") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Show the settings."""
    parser = Parser(prog="config", description="Show each setting of make, its value, and where it comes from.")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="a setting as on make's command line")
    parser.add_argument("--json", action="store_true", help="one JSON object: {name: {value, origin}}")
    parser.add_argument("--from-make", action="store_true", help="for the makefile: show what is in the environment")
    arguments = parser.parse_args(argv)
    if not arguments.from_make:
        return ask_make(arguments.settings, arguments.json)
    settings = read_settings(os.environ)
    if arguments.json:
        found = {one.name: {"value": blot_secrets(one.value), "origin": one.origin} for one in settings}
        print(json.dumps(found))
    else:
        show(settings)
    return 0
