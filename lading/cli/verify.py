"""``lading verify``: compare the bucket with the release and write the manifest.

Input: ROOT, ``batch.json`` and its tree, the journals, the bucket. Output:
``manifest.jsonl.zst``, and the findings for people or as JSON.
Invariant: with ``--manifest M`` this module is not loaded: ``verify_manifest`` is.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from lading.cli.release_arguments import add_release_arguments, open_release
from lading.coordination.signals import leave_hanging
from lading.core.command_line import Parser, configure_logging, run_main
from lading.core.errors import UsageError
from lading.core.exit_codes import OF_A_TRANSFER
from lading.verification.sample import SourceRequest, parse_source
from lading.verification.verification_run import MOST_DESCRIBED, VerifyOptions, run_verification


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's settings."""
    parser = Parser(
        prog="verify",
        description="Compare the bucket with the release and write the manifest.",
        epilog="With --manifest M neither plan nor source is needed; see lading verify --manifest M --help.",
        codes=OF_A_TRANSFER,
    )
    add_release_arguments(parser)
    parser.add_argument("--deep", type=int, default=0, metavar="N", help="read back about N objects and compare them")
    parser.add_argument("--full", action="store_true", help="read back every object and compare it")
    parser.add_argument(
        "--source",
        type=read_request,
        nargs="?",
        const=SourceRequest(),
        metavar="N|SIZE",
        help="read local files and compare them with their records: all, N of them, or SIZE (like 10G) of bytes",
    )
    parser.add_argument(
        "--level", choices=["etag", "checksum", "crc64"], help="how objects are compared with the files"
    )
    parser.add_argument(
        "--attributes",
        choices=["auto", "always", "never"],
        default="auto",
        help="record how each object is stored, one request per object (auto: if upload was told how, up to "
        f"{MOST_DESCRIBED:,} objects)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the manifest (beside batch.json)")
    return parser.parse_args(argv)


def read_request(text: str) -> SourceRequest:
    """Return what ``--source`` asks for; raises for the command line's parser."""
    try:
        return parse_source(text)
    except (ValueError, UsageError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of files nor a size like 10G (write --source=10G)"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Verify; returns the exit code of docs/reference/formats.md."""
    with leave_hanging():
        return _main(parse(argv))


def _main(arguments: argparse.Namespace) -> int:
    configure_logging()
    inventory, target = open_release(arguments)
    options = VerifyOptions(**{field.name: getattr(arguments, field.name) for field in fields(VerifyOptions)})
    return run_verification(options, inventory, target)


if __name__ == "__main__":
    sys.exit(run_main(main))
