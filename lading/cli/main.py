"""The command ``lading``: one subcommand a stage, each module imported only when asked for.

Input: ``argv``. Output: the stage's exit code, for whoever called.
Invariant: this file knows names, not work; a stage has the flags that it has
under its own name. What a stage needs and is not installed is one sentence
(exit 2), said before the stage is imported.
"""

import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

from lading.cli.stage_record import is_recorded, run_recorded
from lading.core import exit_codes
from lading.core.command_line import Parser, run_main
from lading.core.errors import UsageError
from lading.core.extras import require


@dataclass(frozen=True)
class Command:
    """A stage: its module with ``main(argv) -> int``, what it calls itself, and what is put before its arguments.

    ``instead``: (flags, module) of another module that does the stage where one of the flags is given.
    """

    module: str
    program: str
    summary: str
    before: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    called: str = "lading {}"
    instead: tuple[tuple[str, ...], str] = ((), "")

    def module_for(self, arguments: Sequence[str]) -> str:
        """Return the module that these arguments are for."""
        flags, module = self.instead
        return module if any(word.partition("=")[0] in flags for word in arguments) else self.module


COMMANDS = {
    "find": Command("lading.cli.find", "find.py", "crawl a directory into a size tree"),
    "batch": Command("lading.cli.batch", "batch.py", "plan batches of a size tree"),
    "estimate": Command(
        "lading.cli.batch", "batch.py", "estimate an upload: objects, requests, price, hours", ("--estimate",)
    ),
    "signoff": Command(
        "lading.cli.signoff", "signoff", "check a release before it is uploaded, and keep the digests of its files"
    ),
    "upload": Command(
        "lading.cli.upload", "upload.py", "send the batches and verify each object; run it again until nothing is left"
    ),
    "verify": Command(
        "lading.cli.verify",
        "verify",
        "compare the bucket with the release; write the manifest",
        instead=(("--manifest", "--place"), "lading.cli.verify_manifest"),
    ),
    "scrub": Command("lading.cli.scrub", "scrub", "list the bucket, read a part of it, log what was read when"),
    "sign": Command("lading.cli.sign", "sign", "sign a manifest by a key of ssh or minisign"),
    "restore": Command("lading.cli.restore", "restore", "bring files back from the bucket, verified"),
    "copy": Command("lading.cli.copy", "copy", "copy a release to a second place, verified at both ends"),
    "repair": Command("lading.cli.repair", "repair", "bring damaged objects of one place back from another"),
    "withdraw": Command("lading.cli.withdraw", "withdraw", "delete named objects, with a record and a reason"),
    "export": Command("lading.cli.export", "export", "write what a manifest says as checksum files, BagIt, csv …"),
    "publish": Command("lading.cli.publish", "publish", "put manifest, checksums and check.py beside the data"),
    "diff": Command("lading.cli.diff", "diff", "say what changed between two manifests, trees or buckets"),
    "compress": Command("lading.cli.compress", "python3 -m jobs compress", "compress one data folder"),
    "prove": Command(
        "lading.cli.prove",
        "lading prove",
        "say whether a compression gives back the originals' bytes",
        ("prove",),
        ("ephys", "imaging"),
    ),
    "decompress": Command(
        "lading.cli.prove",
        "lading decompress",
        "write the original files of a compression",
        ("decompress",),
        ("ephys", "imaging"),
    ),
    "view": Command(
        "lading.cli.view", "lading view", "links that open images in viewers; check CORS", extras=("ephys", "imaging")
    ),
    "jobs": Command("jobs.__main__", "python3 -m jobs", "check, run and follow a list of sessions", extras=("aind",)),
    "import": Command(
        "lading.cli.import_manifest", "python3 -m lading import", "write a manifest of a bucket that other tools filled"
    ),
    "mirror": Command(
        "lading.cli.mirror", "python3 -m lading mirror", "write DataLad datasets of a manifest", extras=("mirror",)
    ),
    "status": Command(
        "lading.cli.report",
        "python3 -m lading.report",
        "show how much of a release is done",
        ("status",),
        called="lading",
    ),
    "report": Command(
        "lading.cli.report",
        "python3 -m lading.report",
        "write pages about a release",
        ("report",),
        called="lading",
    ),
    "logs": Command("lading.cli.logs", "lading logs", "say what the last run of each stage of a release did"),
    "fleet": Command(
        "lading.cli.fleet_verbs",
        "lading fleet",
        "look after many releases: status, run, report, add",
        extras=("fleet",),
    ),
    "serve": Command("lading.cli.serve", "python3 -m jobs serve", "serve the portal", extras=("portal", "aind")),
    "demo": Command(
        "demo.__main__", "demo", "run every stage on a small tree, with an S3 server on this machine", extras=("demo",)
    ),
    "config": Command("lading.cli.show_settings", "config", "show each setting of make, and where it comes from"),
    "doctor": Command("lading.cli.doctor", "doctor", "say what is installed here, and what each missing part costs"),
}


def make_parser() -> Parser:
    """Return the parser of what stands before a subcommand."""
    listed = "\n".join(f"  {name:<10} {command.summary}" for name, command in COMMANDS.items())
    parser = Parser(
        prog="lading",
        usage="lading COMMAND [ARGUMENT…]",
        description="Crawl, plan, upload, verify and mirror cluster data to S3.",
        epilog=f"commands (each has --help):\n{listed}",
        formatter_class=RawDescriptionHelpFormatter,
        codes=exit_codes.MEANINGS,
    )
    parser.add_argument("--version", action="store_true", help="print version and commit")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the rest of the line to a subcommand; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0].startswith("-"):
        if not make_parser().parse_args(arguments).version:
            raise UsageError(f"lading needs a command; one of {', '.join(COMMANDS)}; see lading --help")
        from lading.core.version import version_line  # here: it costs each of thousands of ranks some ms

        print(version_line())
        return exit_codes.DONE
    name = arguments.pop(0)
    command = COMMANDS.get(name)
    if command is None:
        raise UsageError(f"{name!r} is not a command of lading; one of: {', '.join(COMMANDS)}")
    if not {"-h", "--help"}.intersection(arguments):
        require(command.extras)
    Parser.called_as = command.program, command.called.format(name)
    return run_stage(name, arguments)


def run_stage(name: str, arguments: Sequence[str]) -> int:
    """Run a command, and note how it ended if it is a stage of a release; returns its exit code."""
    command = COMMANDS[name]
    if is_recorded(name, arguments):
        return run_recorded(name, arguments, lambda: run_command(command, arguments))
    return run_command(command, arguments)


def run_command(command: Command, arguments: Sequence[str]) -> int:
    """Load a command's module and run it; returns its exit code."""
    code: int = import_module(command.module_for(arguments)).main([*command.before, *arguments])
    return code


def stage_main(name: str) -> Callable[[Sequence[str] | None], int]:
    """Return the ``main`` of a stage that has a file of its own: ``find.py``, ``batch.py``, ``upload.py``."""

    def begin(argv: Sequence[str] | None = None) -> int:
        return run_stage(name, sys.argv[1:] if argv is None else argv)

    return begin


def run() -> NoReturn:
    """Be the process: the entry point of the installed command, and of ``python3 -m lading``."""
    sys.exit(run_main(main))
