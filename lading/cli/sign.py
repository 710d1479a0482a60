"""``make sign key=``: sign a manifest, so that a reader can tell who made it and which row was changed since.

Input: a manifest here, a key of ssh or minisign. Output: its statement, signature and list of rows beside it.
Invariant: the manifest is read whole before it is signed, and is not written.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from lading.core.command_line import Parser, printable, run_main
from lading.core.exit_codes import DISAGREE
from lading.verification.manifest import read_manifest
from lading.verification.manifest_address import warn_incomplete
from lading.verification.signature import read_key, sign_manifest


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(prog="sign", description="Sign a manifest by a key of ssh or minisign.", codes=[DISAGREE])
    parser.add_argument("--manifest", type=Path, default=Path("manifest.jsonl.zst"), metavar="M", help="what to sign")
    parser.add_argument("--key", type=Path, required=True, metavar="KEY", help="a private key of ssh or minisign")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Sign; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    key = read_key(arguments.key)
    manifest = read_manifest(arguments.manifest)
    warn_incomplete(manifest, "not signed")
    written = sign_manifest(manifest, key, arguments.manifest)
    print(f"signed  {manifest.end.sha256} by {printable(str(arguments.key))}: {', '.join(map(str, written))}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
