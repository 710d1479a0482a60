"""``lading prove SESSION [FILE…]`` and ``lading decompress SESSION DIRECTORY [FILE…]``: the originals of a compression.

Input: a directory or an ``s3://`` prefix with a ``compress.json``, or with folders that have one. Output: whether
the compressed copy gives back the bytes of each original file; with ``decompress`` these files.
Invariant: nothing is written to the session. A file is called equal by the SHA-256 of its rebuilt bytes alone.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lading.compress.job import SourceFile
from lading.compress.rebuild.proof_of_originals import FileVerdict, ProofCounters, choose, prove
from lading.compress.rebuild.stored_compression import StoredCompression, open_session
from lading.compress.zip_archive import PASSWORD_VARIABLE, read_password
from lading.core import exit_codes
from lading.core.command_line import Parser, configure_logging, printable, run_main
from lading.core.progress import Progress, counted, format_bytes, format_count

SHOWN = 20


def make_parser(*, write: bool) -> Parser:
    """Return the parser of ``prove``, or of ``decompress``."""
    parser = Parser(
        prog="lading decompress" if write else "lading prove",
        description="Write the original files of a compression, each compared with its SHA-256."
        if write
        else "Rebuild the original files of a compression and compare their SHA-256 with those in compress.json.",
        codes=(exit_codes.SOME_FAILED, exit_codes.DISAGREE),
    )
    parser.add_argument(
        "session", metavar="SESSION", help="what a compression wrote: a directory, or s3://bucket/prefix"
    )
    if write:
        parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="where the original files are written")
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="original files, by path or glob; default: all of them"
    )
    parser.add_argument("--endpoint-url", help="S3 server (default: AWS_ENDPOINT_URL or the profile's, else AWS)")
    parser.add_argument("--password-file", help="a file whose first line is the password of zips")
    parser.add_argument("--password-variable", help=f"environment variable of it; default {PASSWORD_VARIABLE}")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the first word says; returns the exit code."""
    words = list(argv or ())
    write = bool(words) and words.pop(0) == "decompress"
    arguments = make_parser(write=write).parse_args(words)
    configure_logging()
    session = open_session(arguments.session, arguments.endpoint_url)
    chosen = choose(session, arguments.files)
    counters = ProofCounters()
    run(session, chosen, counters, arguments, arguments.directory if write else None)
    if arguments.json:
        print(json.dumps(describe(counters, session)))
    else:
        print_result(counters, session, write=write)
    if counters.wrong or counters.damaged:
        return exit_codes.DISAGREE
    # What was asked for by name, or was to be written, is missing; a whole session may hold what nobody promises.
    return exit_codes.SOME_FAILED if counters.unpromised and (write or arguments.files) else exit_codes.DONE


def run(
    session: Sequence[StoredCompression],
    chosen: Sequence[tuple[StoredCompression, SourceFile]],
    counters: ProofCounters,
    arguments: argparse.Namespace,
    to: Path | None,
) -> None:
    """Rebuild the files, and read the outputs that no file needed, unless only some files are meant."""
    total = sum(record.size for _, record in chosen)
    with Progress("decompress" if to else "prove") as progress:
        seen = 0
        for verdict in prove(chosen, find_password(session, arguments), to):
            counters.add(verdict)
            seen += verdict.size
            if progress.due():
                progress.show(f"{format_bytes(seen)} of {format_bytes(total)}")
        if to is None and not arguments.files:
            counters.damaged += [str(error) for stored in session for error in stored.check_rest()]


def find_password(session: Sequence[StoredCompression], arguments: argparse.Namespace) -> str | None:
    """Return the password of zips, None where there is no archive that has one."""
    methods = {str(stored.options.get(name) or "") for stored in session for name in ("pack", "video_zip")}
    if not methods & {"aes", "legacy"}:
        return None
    return read_password(arguments.password_file, arguments.password_variable)


def describe(counters: ProofCounters, session: Sequence[StoredCompression]) -> dict[str, object]:
    """Return the result for machines."""

    def rows(verdicts: Sequence[FileVerdict]) -> list[dict[str, object]]:
        return [{"path": one.path, "size": one.size, "reason": one.reason} for one in verdicts]

    return {
        "format": 1,
        "kind": "prove",
        "equal": counters.files,
        "bytes": counters.bytes,
        "different": rows(counters.wrong),
        "not_promised": rows(counters.unpromised),
        "damaged": counters.damaged,
        "not_carried": list(not_carried(session)),
    }


def not_carried(session: Sequence[StoredCompression]) -> Iterator[str]:
    """Yield the source files that no output carries."""
    for stored in session:
        yield from (f"{stored.folder}/{path}" if stored.folder else path for path in stored.not_carried)


def print_result(counters: ProofCounters, session: Sequence[StoredCompression], *, write: bool) -> None:
    """Print what is not equal, file by file, and the counts."""
    for title, lines in (
        ("different", [f"{one.path}: {one.reason}" for one in counters.wrong]),
        ("damaged", counters.damaged),
        ("not promised", [f"{one.path}: {one.reason}" for one in counters.unpromised]),
        ("not kept", [f"{path}: no output contains it" for path in not_carried(session)]),
    ):
        for line in lines[:SHOWN]:
            print(f"{title}: {printable(line)}", file=sys.stderr)
        if len(lines) > SHOWN:
            print(f"{title}: {format_count(len(lines) - SHOWN)} more (--json names all)", file=sys.stderr)
    done = "written, each equal to its original" if write else "give back the bytes of their originals"
    wrong = len(counters.wrong) + len(counters.damaged)
    print(
        f"{counted(counters.files, 'file')}, {format_bytes(counters.bytes)}: {done}; "
        f"{format_count(wrong)} wrong, {format_count(len(counters.unpromised))} not promised"
    )
    if unlisted := [stored.name for stored in session if stored.kind in ("ephys", "imaging") and not stored.has_list]:
        print(f"note: {printable(unlisted[0])} was written without a list of its files, so those alone are checked")


if __name__ == "__main__":
    sys.exit(run_main(main))
