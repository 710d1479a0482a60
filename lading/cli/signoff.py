"""Check a release before it is uploaded, and keep the digests of its files: ``lading signoff ROOT``.

Input: a directory. Output: ``signoff/``: report.json, index.html, findings.jsonl and digests.jsonl.
Invariant: every byte is read once by all ranks together. Killed at any moment, the same command goes on: what was read
and did not change is not read again.
"""

import argparse
import grp
import json
import os
import pwd
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lading.cli.roots import add_yes_root, check_root
from lading.coordination.signals import leave_hanging
from lading.core.atomic import atomic_write
from lading.core.command_line import Parser, parse_workers, run_main
from lading.core.errors import ConsistencyError, PartialFailure, UsageError
from lading.core.exit_codes import DISAGREE, LOCKED, SOME_FAILED
from lading.core.progress import Progress, counted, format_bytes, format_count
from lading.objectstore.keys import parse_key_prefix
from lading.parallel.messages import RankMessages
from lading.parallel.mpi import LOOK_SECONDS, join_world, leave_world
from lading.signoff.conclusion import FOUND, SignoffResult
from lading.signoff.fault_kinds import (
    KINDS,
    ExpectedState,
    FaultLevel,
    SignoffRules,
    own_number,
    parse_freeze,
    parse_levels,
    parse_mode,
)
from lading.signoff.signoff_report import describe, lines_of_result, table_rows
from lading.signoff.signoff_run import Show, SignoffOptions, await_end, serve, sign_off
from lading.tree.globs import parse_glob

REPORT, PAGE = "report.json", "index.html"
ENDING_SECONDS = 20.0  # between the ends of the ranks of one launch


def make_parser() -> Parser:
    """Return the command line of this stage."""
    parser = Parser(
        prog="signoff",
        description="Check a release before it is uploaded, and keep the digests of its files.",
        codes=[SOME_FAILED, DISAGREE, LOCKED],
    )
    add = parser.add_argument
    add("root", metavar="ROOT", nargs="?", help="the directory to sign off")
    add("-o", "--output", type=Path, default=Path("signoff"), metavar="DIR", help="where the result goes (signoff)")
    add(
        "--checks",
        default="",
        metavar="KIND=LEVEL,…",
        help="switch checks to off, note or error, like hidden=off,owner-writable=error; all=off first leaves the rest",
    )
    add("--list-checks", action="store_true", help="list the checks with their levels, and do nothing else")
    add("--owner", metavar="NAME", help="the owner of every entry")
    add("--group", metavar="NAME", help="the group of every entry")
    add("--file-mode", metavar="0644", help="the mode of every file")
    add("--directory-mode", metavar="0755", help="the mode of every directory")
    add("--freeze", metavar="DATE", help="nothing changed after this date (its end, UTC) or time")
    add("--crowd", type=int, default=100_000, metavar="N", help="most entries of a directory (100000)")
    add("--bucket", metavar="S3URL", help="where the release will go: the prefix counts for the length of keys")
    add("--exclude", action="append", default=[], metavar="GLOB", help="leave these out (repeatable)")
    add("--write-sums", action="store_true", help="write a checksum file for the files that have no checksum")
    add("--again", action="store_true", help="read every file, also those that an earlier run read")
    add("--max-workers", type=parse_workers, default=16, metavar="N", help="threads per rank (16)")
    add_yes_root(parser)
    add("--json", action="store_true", help="print the result as JSON")
    return parser


def read_rules(arguments: argparse.Namespace) -> SignoffRules:
    """Return what is looked for; ``UsageError`` for settings that make no sense."""

    def given(text: str | None, take: Callable[[str], int]) -> int | None:
        return None if text is None else take(text)

    prefix = parse_key_prefix(arguments.bucket).prefix if arguments.bucket else ""
    return SignoffRules(
        ExpectedState(
            given(arguments.owner, lambda text: own_number("user", text, lambda name: pwd.getpwnam(name).pw_uid)),
            given(arguments.group, lambda text: own_number("group", text, lambda name: grp.getgrnam(name).gr_gid)),
            given(arguments.file_mode, parse_mode),
            given(arguments.directory_mode, parse_mode),
            given(arguments.freeze, parse_freeze),
            arguments.crowd,
            prefix,
        ),
        parse_levels(arguments.checks),
    )


def list_checks(rules: SignoffRules) -> int:
    """Print each check with its level and its meaning."""
    width = max(len(kind.name) for kind in KINDS)
    for kind in KINDS:
        needs = f" (needs {kind.setting})" if kind.setting else ""
        print(f"{kind.name:<{width}}  {rules.levels[kind.name]:<5}  {kind.meaning}{needs}")
    return 0


def shower(progress: Progress) -> Show:
    """Return what turns the state of a walk into progress lines."""

    def show(state: tuple[int, int, int]) -> None:
        if progress.due():
            entries, size, waiting = state
            progress.show(
                f"{counted(entries, 'entry', 'entries')}, {format_bytes(size)} "
                f"({format_bytes(size / max(progress.elapsed, 1e-9))}/s), {counted(waiting, 'piece')} waiting"
            )

    return show


def lead(options: SignoffOptions, post: RankMessages | None, as_json: bool) -> int:
    """Run the stage on the first rank; returns the exit code, or raises what was found."""
    started, clock = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"), time.monotonic()
    with Progress("signoff") as progress:
        result = sign_off(options, post, shower(progress))
    seconds = time.monotonic() - clock
    record = describe(result, options.rules, options.root, started, seconds)
    write_report(record, table_rows(result, options.rules), options.directory)
    if as_json:
        print(json.dumps(record))
    else:
        for line in lines_of_result(result, options.rules, seconds):
            print(line)
    sys.stdout.flush()
    return conclude(result, options)


def write_report(record: dict[str, Any], rows: list[dict[str, Any]], directory: Path) -> None:
    """Write the result for machines, and the page."""
    from lading.report.signoff_page import write_signoff_page  # with its templates, for the first rank alone

    write_signoff_page(record, rows, directory / PAGE)
    with atomic_write(directory / REPORT, sweep=True) as stream:
        stream.write(json.dumps(record, indent=1) + "\n")


def conclude(result: SignoffResult, options: SignoffOptions) -> int:
    """Return 0 when the release is clean; raises with the counts of what is not."""
    errors = result.at(FaultLevel.ERROR, options.rules)
    unread = (
        f"{counted(result.unread, 'entry', 'entries')} could not be read, or changed meanwhile" if result.unread else ""
    )
    where = f"{options.directory / FOUND} lists all"
    if errors:
        total = sum(errors.values())
        kinds = ", ".join(f"{format_count(count)} {kind}" for kind, count in errors.items())
        rest = f"; {unread}" if unread else ""
        raise ConsistencyError(
            f"the release is not clean: {counted(total, 'error')} ({kinds}){rest}; {where}. "
            "Fix them, or switch checks off by --checks, then run the same command again"
        )
    if unread:
        raise PartialFailure(f"{unread}; {where}. Make them readable, then run the same command again")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    with leave_hanging():
        return _main(make_parser().parse_args(argv))


def _main(arguments: argparse.Namespace) -> int:
    rules = read_rules(arguments)
    if arguments.list_checks:
        return list_checks(rules)
    if arguments.root is None:
        raise UsageError("no ROOT is given; write it like lading signoff /data/release (make: release=…)")
    check_root(arguments.root, arguments.yes_root)
    options = SignoffOptions(
        os.path.abspath(arguments.root),
        arguments.output,
        rules,
        arguments.max_workers,
        tuple(map(parse_glob, arguments.exclude)),
        writes_sums=arguments.write_sums,
        again=arguments.again,
    )
    world = join_world()
    if world.comm is None:
        return lead(options, None, arguments.json)
    post = RankMessages(world)
    if world.is_root:
        code = run_main(lambda _: lead(options, post, arguments.json))
        release_ranks(post, code)
    else:
        code = run_main(lambda _: follow(options, post))
    leave_world(world, code, together=ENDING_SECONDS)
    return code


def follow(options: SignoffOptions, post: RankMessages) -> int:
    """Run the stage on another rank; what the first rank says is not said again."""
    try:
        return serve(options, post, lambda _: None)
    except UsageError:
        return await_end(post)  # its message is taken, or MPI ends in an error


def release_ranks(post: RankMessages, code: int) -> None:
    """Tell the other ranks that all is done."""
    for rank in range(1, post.size):
        post.send(rank, ("exit", code))
    until = time.monotonic() + ENDING_SECONDS
    while post.unsent() and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(run_main(main))
