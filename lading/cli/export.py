"""``lading export``: what a manifest says, in a form that another tool reads.

Input: a manifest, a form. Output: a file or directory.
Invariant: reads nothing but the manifest: source, plan and journals may be gone, and no account is needed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from lading.core import exit_codes
from lading.core.command_line import Parser, printable, run_main
from lading.core.errors import PartialFailure
from lading.core.progress import counted
from lading.export.addresses import Addresses
from lading.export.forms import FORMS
from lading.export.writers import Exported
from lading.verification.manifest_address import add_manifest_arguments, read_manifest_of, warn_incomplete

CODES = [exit_codes.DONE, exit_codes.FAILED, exit_codes.USAGE, exit_codes.SOME_FAILED, exit_codes.DISAGREE]


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(prog="export", description="Write what a manifest says in the form of another tool.", codes=CODES)
    parser.add_argument("form", choices=sorted(FORMS), help="what to write")
    add_manifest_arguments(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="file or directory to write")
    parser.add_argument("--url", metavar="BASE", help="public address of the bucket's top, instead of its endpoint")
    parser.add_argument("--name", metavar="TEXT", help="what ro-crate and croissant call the data (bucket/prefix)")
    parser.add_argument("--license", default="", metavar="URL", help="the licence that these two name")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Export; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    manifest = read_manifest_of(arguments.manifest, arguments)
    warn_incomplete(manifest, "not exported")
    addresses = Addresses.of(manifest.header, arguments.url, arguments.name, arguments.license)
    done = FORMS[arguments.form](manifest, arguments.output, addresses)
    print(f"{counted(done.rows, 'object')} written to {printable(str(arguments.output))}")
    if done.left_out:
        raise PartialFailure(describe_left_out(done))
    return 0


def describe_left_out(done: Exported) -> str:
    """Return a sentence on what the form does not hold."""
    names = ", ".join(printable(path) for path in done.named)
    more = " …" if done.left_out > len(done.named) else ""
    return f"{counted(done.left_out, 'object was', 'objects were')} left out: {done.why}: {names}{more}"


if __name__ == "__main__":
    sys.exit(run_main(main))
