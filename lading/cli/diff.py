"""``lading diff OLD NEW``: what changed between two manifests, trees, directories or buckets.

Input: two of these. Output: a table, JSON or a page; every change as a line of JSON with ``-o``.
Invariant: no file and no object is read. A manifest is found whole before anything is said.
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
from lading.core.errors import PartialFailure, UsageError
from lading.core.progress import counted, format_bytes, format_count
from lading.diff.manifests import KINDS, ManifestChange, ManifestDiff
from lading.diff.opening_sides import HELP, open_sides
from lading.verification.manifest_address import add_manifest_arguments, is_address

DIRECTORIES = 20  # named in the table
SHOWN = 10  # of what could not be read


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        prog="diff",
        description="Say what changed between two manifests, trees, directories or buckets.",
        codes=[exit_codes.DONE, exit_codes.SOME_FAILED, exit_codes.DISAGREE],
    )
    parser.add_argument("old", metavar="OLD", help=f"the earlier one: {HELP}")
    parser.add_argument("new", metavar="NEW", help="the later one, likewise")
    add_manifest_arguments(parser, flag=False)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--most", type=read_most, default=20, metavar="N", help="names of each kind to print")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write every change, a JSON object per line")
    parser.add_argument(
        "--changes", type=Path, metavar="FILE", help="write the result as JSON there too: changes.json for who polls"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page (HTML) there too")
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
    if arguments.output and any(
        arguments.output.exists() and arguments.output.samefile(path)
        for path in (arguments.old, arguments.new)
        if not is_address(path)
    ):
        raise UsageError(f"{arguments.output} is one of those compared; give another -o")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lading-diff-")))
        opened = open_sides(arguments.old, arguments.new, arguments, scratch)
        out = stack.enter_context(atomic_write(arguments.output)) if arguments.output else None
        compared = ManifestDiff(opened.old, opened.new, scratch, out, by_key=opened.by_key)
        sums = compared.run(arguments.most)
    if arguments.changes:
        write_changes(compared, arguments.changes)
    if arguments.page:
        from lading.report.diff_page import write_diff_page  # with its templates, for those who want it

        write_diff_page(describe(compared), arguments.page, (arguments.old, arguments.new))
    if arguments.json:
        print(json.dumps(describe(compared)))
    else:
        print_table(compared)
    sys.stdout.flush()
    if opened.unread:
        names = ", ".join(map(printable, opened.unread[:SHOWN]))
        more = " …" if len(opened.unread) > SHOWN else ""
        count = len(opened.unread)
        what = counted(count, "path could not be read and counts", "paths could not be read and count")
        raise PartialFailure(f"{what} as absent: {names}{more}")
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
        "same_by_size": sums.by_size,
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
    for name, side in compared.ends.items():
        kind = "removed" if name == "new" else "added"
        if side.get("complete") is False:
            print(f"note: the {name} manifest is not of a complete release; a file without a row counts as {kind}")
        if gone := side.get("withdrawn"):
            said = counted(int(gone), "object was", "objects were")
            print(f"note: {said} withdrawn by the {name} manifest; if the other side has them, they count as {kind}")
    if sums.by_size:
        print(f"note: {format_count(sums.by_size)} of the same have no digest on one side; their sizes are equal")
    for (old, new), count in sums.renamed_directories.most_common(DIRECTORIES):
        print(f"renamed directory: {printable(old)} -> {printable(new)} ({counted(count, 'object')})")
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
