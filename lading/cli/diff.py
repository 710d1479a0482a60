"""``lading diff OLD NEW``: what changed between two manifests.

Input: two manifests. Output: a table, or JSON; every change as a line of JSON with ``-o``.
Invariant: reads nothing but the manifests, which are found whole before anything is said.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lading.core import exit_codes
from lading.core.atomic import atomic_write
from lading.core.command_line import Parser, printable, run_main
from lading.core.errors import UsageError
from lading.core.progress import format_bytes, format_count
from lading.diff.manifests import KINDS, ManifestChange, ManifestDiff
from lading.verification.manifest_address import HELP, add_manifest_arguments, is_address, locate_manifest

DIRECTORIES = 20  # named in the table


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        prog="diff", description="Say what changed between two manifests.", codes=[exit_codes.DONE, exit_codes.DISAGREE]
    )
    parser.add_argument("old", metavar="OLD", help=f"the earlier manifest: {HELP}")
    parser.add_argument("new", metavar="NEW", help="the later manifest, likewise")
    add_manifest_arguments(parser, flag=False)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--most", type=read_most, default=20, metavar="N", help="names of each kind to print")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write every change, a JSON object per line")
    parser.add_argument(
        "--changes", type=Path, metavar="FILE", help="write the result as JSON there too: changes.json for who polls"
    )
    parser.add_argument("--exit-code", action="store_true", help="end with 4 when there is a difference")
    return parser


def read_most(text: str) -> int:
    """Return a number of names; raises for the command line's parser."""
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of names; give a whole number from 0 on")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    old, new = (locate_manifest(where, arguments) for where in (arguments.old, arguments.new))
    if arguments.output and any(
        arguments.output.exists() and arguments.output.samefile(path)
        for path in (arguments.old, arguments.new)
        if not is_address(path)
    ):
        raise UsageError(f"{arguments.output} is one of the manifests; give another -o")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lading-diff-")))
        out = stack.enter_context(atomic_write(arguments.output)) if arguments.output else None
        compared = ManifestDiff(old, new, scratch, out)
        sums = compared.run(arguments.most)
    if arguments.changes:
        write_changes(compared, arguments.changes)
    if arguments.json:
        print(json.dumps(describe(compared)))
    else:
        print_table(compared)
    return exit_codes.DISAGREE if arguments.exit_code and sums.counts else exit_codes.DONE


def describe(compared: ManifestDiff) -> dict[str, object]:
    """Return the result for machines."""
    sums = compared.sums
    return {
        "format": 1,
        "kind": "diff",
        **compared.ends,
        "compared_by": compared.by,
        "same": sums.same,
        "objects": {kind: sums.counts[kind] for kind in KINDS},
        "bytes": {kind: sums.bytes[kind] for kind in KINDS},
        "directories": {name: dict(found) for name, found in sorted(sums.directories.items())},
        "renamed_directories": [
            {"old": old, "new": new, "objects": count} for (old, new), count in sums.renamed_directories.most_common()
        ],
        "named": {
            kind: [change.as_json() for change in changes] for kind, changes in compared.named.items() if changes
        },
    }


def write_changes(compared: ManifestDiff, path: Path) -> None:
    """Write the result as JSON, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(json.dumps(describe(compared)) + "\n")


def print_table(compared: ManifestDiff) -> None:
    """Print counts and bytes by kind, renamed directories, and the first names of each kind."""
    sums = compared.sums
    print(f"{'same':<10} {format_count(sums.same):>12}")
    for kind in KINDS:
        print(f"{kind:<10} {format_count(sums.counts[kind]):>12}  {format_bytes(sums.bytes[kind]):>8}")
    for (old, new), count in sums.renamed_directories.most_common(DIRECTORIES):
        print(f"renamed directory: {printable(old)} -> {printable(new)} ({format_count(count)} objects)")
    for kind in KINDS:
        for change in compared.named[kind]:
            print(f"{kind:<10} {_line(change)}")
        rest = sums.counts[kind] - len(compared.named[kind])
        if rest:
            print(f"{kind:<10} … and {format_count(rest)} more (-o FILE writes all)")


def _line(change: ManifestChange) -> str:
    before = f"{printable(change.old_path)} -> " if change.old_path is not None else ""
    return f"{before}{printable(change.path)} ({format_bytes(change.size)})"


if __name__ == "__main__":
    sys.exit(run_main(main))
