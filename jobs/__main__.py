"""``python3 -m jobs COMMAND …``: one line per command, each module imported only when asked for.

Input: ``argv``. Output: the command's exit code.
Invariant: this file knows names, not work. ``python3 -m jobs --jobs-csv-file LIST …``,
the form without a command, means ``run``.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from lading.core.command_line import Parser, run_main
from lading.core.errors import UsageError
from lading.core.exit_codes import LOCKED, SOME_FAILED, describe

# Command: (module with ``main(argv) -> int``, what it does).
COMMANDS = {
    "check": ("lading.sessions.commands.check", "list every error in a job list, as line:column: message"),
    "explain": ("lading.sessions.commands.explain", "show each value of each job and where it came from"),
    "run": ("lading.sessions.commands.run", "run the jobs of a list: compress, describe, upload, verify"),
    "status": ("lading.sessions.commands.list_status", "show how much of each job of a list is done"),
    "cancel": ("lading.sessions.commands.cancel", "stop queued or running jobs of a list"),
    "serve": ("lading.cli.serve", "serve the portal: submit lists and follow them in a browser or by REST"),
    "compress": ("lading.cli.compress", "compress one data folder"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the rest of the line to the named command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        program = Parser(prog="python3 -m jobs").prog
        print(f"usage: {program} COMMAND [ARGUMENT…] | --jobs-csv-file LIST [FLAG…]\n")
        print("\n".join(f"  {name:<9} {summary}" for name, (_, summary) in COMMANDS.items()))
        print(f"\n{describe([SOME_FAILED, LOCKED])}", end="")
        return 0
    if arguments[0].startswith("-"):
        arguments.insert(0, "run")
    if arguments[0] not in COMMANDS:
        raise UsageError(f"{arguments[0]!r} is not a command of jobs; one of: {', '.join(COMMANDS)}")
    code: int = import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])
    return code


if __name__ == "__main__":
    sys.exit(run_main(main))
