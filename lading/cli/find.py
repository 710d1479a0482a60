"""Crawl a directory into a size tree: ``find.py ROOT -o find.json``.

Input: a directory. Output: find.json and find.meta.json.
Invariant: the same tree gives the same bytes, whatever the threads and ranks;
a path that could not be read is listed in the meta file and the exit code is 3.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lading.cli.roots import add_yes_root, check_root
from lading.coordination.signals import leave_hanging
from lading.core.command_line import Parser, parse_workers, printable, run_main
from lading.core.errors import LadingError, UsageError, usage_errors
from lading.core.exit_codes import SOME_FAILED
from lading.core.progress import Progress, counted, format_bytes, format_count, format_seconds
from lading.crawl.artefacts import Artefacts, find_artefacts
from lading.crawl.crawl import CrawlProgress, CrawlResult, crawl
from lading.crawl.options import NCDU, TREE, Options
from lading.crawl.output import STDOUT, write_tree
from lading.crawl.since import EarlierCrawl, read_earlier, record_stamps
from lading.journal.stage_result import note_counts
from lading.parallel.messages import RankMessages
from lading.parallel.mpi import World, join_world
from lading.tree.directory_stamps import stamps_path
from lading.tree.globs import parse_glob
from lading.tree.metadata_file import metadata_path
from lading.tree.size_tree import TreeMeta, Unreadable, meta_path, read_meta, write_meta

# Loaded where they are used: a crawl starts on thousands of ranks.
if TYPE_CHECKING:
    from lading.crawl.from_list import ListSource
    from lading.crawl.record_entries import Recorded

# How many of the unreadable paths are named on the terminal; the meta file has all.
MOST_NAMED = 10
# A directory that takes longer than this is named on the progress line.
SLOW_SECONDS = 1.0
# Lines of --log-depth at a time; a level may hold millions of directories.
MOST_LOGGED = 20


def make_parser() -> Parser:
    """Return the command line of this stage."""
    parser = Parser(prog="find.py", description="Crawl a directory into a size tree.", codes=[SOME_FAILED])
    add = parser.add_argument
    add("root", metavar="ROOT", help="the directory to crawl")
    add("--depth", metavar="N", help="levels to write; sizes still count everything below (all)")
    add("--log-depth", metavar="N", help="log directories down to this level when they are reached (none)")
    add("--max-workers", default="32", metavar="N", help="threads (32)")
    add("--max-rate", metavar="N", help="most metadata operations per second, over all ranks (no limit)")
    add("--mtime", action="store_true", help="write each file's mtime in nanoseconds")
    add("--metadata", action="store_true", help="record modes, owners, times and extended attributes of every entry")
    add(
        "--links",
        choices=("record", "follow", "skip"),
        default="record",
        help="what to do with symbolic links (record)",
    )
    add(
        "--hard-links",
        choices=("each", "once"),
        default="each",
        help="count hard links once, like du; such a tree cannot be uploaded (each)",
    )
    add("--one-file-system", action="store_true", help="list mount points as empty directories")
    add(
        "--from",
        dest="list",
        type=Path,
        metavar="LIST",
        help="crawl nothing: take the entries from a list of the file system's own",
    )
    add(
        "--from-format",
        metavar="FORMAT",
        help=r"of LIST: gpfs, gpfs-percent, lester, csv, parquet, or what find -printf was given (by its first line)",
    )
    add("--from-root", metavar="PATH", help="what LIST has for ROOT; '' if its paths are relative (ROOT)")
    add(
        "--since",
        type=Path,
        metavar="EARLIER",
        help="list only directories that changed since the crawl of this tree; files rewritten in place are not seen",
    )
    add("--exclude", action="append", default=[], metavar="GLOB", help="leave these out (repeatable)")
    add_yes_root(parser)
    add("--ncdu", action="store_true", help="write ncdu's format instead: ncdu -f OUT")
    add("--check", action="store_true", help="crawl nothing; say what is missing from OUT, and exit 3 if anything is")
    add("--arrays", action="store_true", help=argparse.SUPPRESS)  # of earlier versions, in settings
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("find.json"),
        metavar="OUT",
        help="the tree to write (find.json); a name in .zst is compressed, - is stdout",
    )
    return parser


def parse_count(flag: str, text: str | None, least: int) -> int | None:
    """Return a whole number of at least ``least``, None for None."""
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{flag} {text!r} is not a whole number from {least} on")
    return int(text)


def make_options(arguments: argparse.Namespace) -> Options:
    """Return what the walk does; ``UsageError`` for flags that make no sense."""
    log_depth = parse_count("--log-depth", arguments.log_depth, 0)
    return Options(
        workers=parse_workers(arguments.max_workers),
        links=arguments.links,
        mtime=arguments.mtime,
        metadata=arguments.metadata,
        one_file_system=arguments.one_file_system,
        exclude=tuple(map(parse_glob, arguments.exclude)),
        hard_links=arguments.hard_links,
        form=NCDU if arguments.ncdu else TREE,
        rate=float(parse_count("--max-rate", arguments.max_rate, 1) or 0),
        log_depth=-1 if log_depth is None else log_depth,
        stamps=not arguments.ncdu and arguments.links != "follow" and arguments.hard_links == "each",
    )


def make_source(arguments: argparse.Namespace) -> "ListSource | None":
    """Return the list to read in place of a crawl; ``UsageError`` for flags that a list cannot serve."""
    if arguments.list is None:
        if arguments.from_format or arguments.from_root is not None:
            raise UsageError("--from-format and --from-root say how a list is read; give the list with --from")
        return None
    refused = {
        "--links follow": arguments.links == "follow",
        "--hard-links once": arguments.hard_links == "once",
        "--one-file-system": arguments.one_file_system,
        "--ncdu": arguments.ncdu,
    }
    if faults := [
        f"{flag} needs a crawl: a list does not tell what it needs" for flag, given in refused.items() if given
    ]:
        raise usage_errors(faults)
    from lading.crawl.from_list import ListSource
    from lading.crawl.list_forms import parse_form

    form = parse_form(arguments.from_format) if arguments.from_format else None
    return ListSource(arguments.list, form, arguments.from_root)


def make_loader(arguments: argparse.Namespace, root: str) -> Callable[[], EarlierCrawl | None]:
    """Return what reads the earlier crawl of ``--since``; ``UsageError`` for flags that it cannot serve."""
    path: Path | None = arguments.since
    if path is None:
        return lambda: None
    refused = {
        "--from": "nothing is crawled, so nothing can be left out",
        "--ncdu": "ncdu's format has no tree to begin with the next time",
        "--links follow": "a directory says nothing about what its links lead to",
        "--hard-links once": "the tree does not tell which names are of one file",
    }
    given = arguments.list is not None, arguments.ncdu, arguments.links == "follow", arguments.hard_links == "once"
    if faults := [
        f"{flag} and --since exclude each other: {why}"
        for (flag, why), is_given in zip(refused.items(), given)
        if is_given
    ]:
        raise usage_errors(faults)

    def load() -> EarlierCrawl | None:
        if path.absolute() == arguments.output.absolute() and not path.exists():
            print(f"note: {path} does not exist yet; everything is listed", file=sys.stderr)
            return None
        return read_earlier(path, root, make_settings(arguments))

    return load


def make_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the meta file says of how a tree was made."""
    return {
        "links": arguments.links,
        "hard_links": arguments.hard_links,
        "mtime": arguments.mtime,
        "metadata": arguments.metadata,
        "one_file_system": arguments.one_file_system,
        "exclude": arguments.exclude,
        "depth": parse_count("--depth", arguments.depth, 0),
        **({"from": str(arguments.list)} if arguments.list else {}),
    }


def now() -> str:
    """Return the time as ISO 8601 UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shower(progress: Progress) -> Callable[[CrawlProgress], None]:
    """Return what turns the state of a walk into progress lines."""

    def show(sight: CrawlProgress) -> None:
        for path in sight.logged[:MOST_LOGGED]:
            print(f"reached {printable(os.fsdecode(path)) or '.'}", file=sys.stderr)
        if len(sight.logged) > MOST_LOGGED:
            print(f"reached {len(sight.logged) - MOST_LOGGED} more", file=sys.stderr)
        if not progress.due():
            return
        text = (
            f"{counted(sight.entries, 'entry', 'entries')} "
            f"({format_count(sight.entries / max(progress.elapsed, 1e-9))}/s), "
            f"{format_bytes(sight.size)}, {counted(sight.waiting, 'directory', 'directories')} waiting"
        )
        if sight.slowest and sight.slowest[1] >= SLOW_SECONDS:
            path, seconds = sight.slowest
            text += f", {format_seconds(seconds)} in {printable(os.fsdecode(path)) or '.'}"
        progress.show(text)

    return show


def save(
    arguments: argparse.Namespace,
    options: Options,
    root: str,
    found: CrawlResult,
    started: str,
    artefacts: tuple[str, ...] = (),
) -> "Recorded | None":
    """Write the tree and what lies beside it; returns what was recorded of its entries, None for a pipe or ncdu."""
    from lading.crawl.record_entries import record_entries

    settings = make_settings(arguments)
    depth, output = settings["depth"], arguments.output
    form = NCDU if arguments.ncdu else TREE
    digest = write_tree(STDOUT if output.name == "-" else output, found.walker, form, depth)
    if form == NCDU or output.name == "-":
        return None
    with Progress("metadata") as progress:

        def show(done: int) -> None:
            if progress.due():
                progress.show(f"{format_count(done)} of {counted(found.entries, 'entry', 'entries')}")

        recorded = record_entries(root, found.walker, options, output, digest, show)
    if found.since:
        settings["since"] = {**found.since.record, "unchanged": found.since.unchanged}
    not_regular = recorded.not_regular.with_unreadable((bad.path for bad in found.unreadable), len(found.unreadable))
    meta = TreeMeta(
        root=root,
        settings=settings,
        sha256=digest,
        entries=found.entries,
        files=found.files,
        directories=found.directories,
        links=found.links,
        others=found.others,
        bytes=found.size,
        started=started,
        ended=now(),
        unreadable=found.unreadable,
        artefacts=artefacts,
        not_regular=not_regular,
        metadata_file=metadata_path(output).name if recorded.written else "",
    )
    if options.stamps and depth is None and not arguments.list:
        assert meta.started_ns is not None
        record_stamps(output, found.walker, root, digest, meta.started_ns)
    else:
        stamps_path(output).unlink(missing_ok=True)
    write_meta(meta_path(output), meta)
    return recorded


def report(found: CrawlResult, seconds: float, stream: Any) -> None:
    """Print the lines that end the stage."""
    print(
        f"{counted(found.entries, 'entry', 'entries')}: {counted(found.files, 'file')}, "
        f"{counted(found.directories, 'directory', 'directories')}, {counted(found.links, 'link')}; "
        f"{format_bytes(found.size)} in {format_seconds(seconds)} "
        f"({format_count(found.entries / max(seconds, 1e-9))} entries/s)",
        file=stream,
    )
    if found.slowest and found.slowest[1] >= SLOW_SECONDS:
        path = printable(os.fsdecode(found.slowest[0])) or "."
        print(f"slowest directory: {path} ({format_seconds(found.slowest[1])})", file=stream)


def report_since(found: CrawlResult, mtime: bool, stream: Any) -> None:
    """Say how much was taken from the earlier crawl, and what nobody looked at therefore."""
    if found.since is None:
        return
    kept, since = "size and time" if mtime else "size", found.since.record
    print(
        f"{format_count(found.since.unchanged)} of "
        f"{counted(found.directories, 'directory has', 'directories have')} not changed "
        f"since {since['started']} and were not listed. A file that was rewritten in place there, under the same name, "
        f"keeps its earlier {kept}: to see those, crawl without --since (last done {since['whole_started']})",
        file=stream,
    )


def report_recorded(recorded: "Recorded", stream: Any) -> None:
    """Name what is no regular file, and what of the metadata could not be had."""
    for clause in recorded.not_regular.describe(printable):
        print(f"not a regular file: {clause}", file=stream)
    for count, what in (
        (recorded.lacking.entries, "entries have no metadata, as they could not be looked at"),
        (recorded.lacking.xattrs, "entries have extended attributes that could not be recorded"),
    ):
        if count.count:
            names = ", ".join(map(printable, count.names)) + (" …" if count.count > len(count.names) else "")
            print(f"note: {format_count(count.count)} {what}: {names}", file=sys.stderr)


def report_unreadable(unreadable: Sequence[Unreadable], output: Path | None) -> None:
    """Name what could not be read, and say how to go on when there is a tree for the next stage."""
    if not unreadable:
        return
    for bad in unreadable[:MOST_NAMED]:
        print(f"could not read {printable(bad.path)}: {bad.message}", file=sys.stderr)
    count = counted(len(unreadable), "path")
    if output is None:
        print(f"{count} could not be read", file=sys.stderr)
        return
    print(
        f"{count} could not be read; {meta_path(output)} lists them all. Make them readable and crawl again: "
        f"rm {output.name}; make {output.name}\n"
        "Or leave them out by name: find_flags='--exclude NAME'. Or continue without them: make batch.json; "
        "then verify ends with exit code 3, because the manifest is not complete",
        file=sys.stderr,
    )


def report_incomplete(output: Path) -> int:
    """Say what the crawl behind ``output`` could not read, without crawling; 3 when there is something."""
    unreadable = read_meta(meta_path(output)).unreadable
    report_unreadable(unreadable, output)
    return 3 if unreadable else 0


def report_artefacts(artefacts: Sequence[str], output: Path) -> None:
    """Name what of the release is Lading's own and was left out."""
    if not artefacts:
        return
    more = f" and {format_count(len(artefacts) - MOST_NAMED)} more" if len(artefacts) > MOST_NAMED else ""
    print(
        f"note: {printable(str(output.absolute().parent))} is inside the release; these artefacts of Lading were left "
        f"out: {format_count(len(artefacts))} ({', '.join(map(printable, artefacts[:MOST_NAMED]))}{more})",
        file=sys.stderr,
    )


def report_snapshots(snapshots: Sequence[str]) -> None:
    """Name directories of snapshots: copies of the release that few mean to carry."""
    if not snapshots:
        return
    more = f" and {format_count(len(snapshots) - MOST_NAMED)} more" if len(snapshots) > MOST_NAMED else ""
    names = sorted({os.path.basename(path) for path in snapshots})
    flags = " ".join(f"--exclude {name}" for name in names)
    print(
        f"note: the tree holds snapshot directories: {', '.join(map(printable, snapshots[:MOST_NAMED]))}{more}; "
        f"to leave them out, crawl again with {flags} (find_flags='{flags}')",
        file=sys.stderr,
    )


def lead(
    arguments: argparse.Namespace,
    options: Options,
    root: str,
    post: RankMessages | None,
    artefacts: tuple[str, ...] = (),
    source: "ListSource | None" = None,
    load: Callable[[], EarlierCrawl | None] = lambda: None,
) -> int:
    """Run the stage on the first rank; returns the exit code."""
    started, clock = now(), time.monotonic()
    with Progress("crawl" if source is None else "list") as progress:
        show = shower(progress)
        if source is None:
            found = crawl(root, options, post, show, load)
        else:
            from lading.crawl.from_list import take_list

            found = take_list(root, options, source, show)
    assert found is not None
    recorded = save(arguments, options, root, found, started, artefacts)
    note_counts(objects=found.files, size=found.size, unreadable=len(found.unreadable))
    piped = arguments.output.name == "-"
    report(found, time.monotonic() - clock, sys.stderr if piped else sys.stdout)
    report_since(found, options.mtime, sys.stderr if piped else sys.stdout)
    if recorded:
        report_recorded(recorded, sys.stdout)
    report_artefacts(artefacts, arguments.output)
    report_snapshots(found.snapshots)
    report_unreadable(found.unreadable, None if piped or arguments.ncdu else arguments.output)
    return 3 if found.unreadable else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    with leave_hanging():
        return _main(make_parser().parse_args(argv))


def _main(arguments: argparse.Namespace) -> int:
    if arguments.check:
        return report_incomplete(arguments.output)
    options, source = make_options(arguments), make_source(arguments)
    parse_count("--depth", arguments.depth, 0)
    check_root(arguments.root, arguments.yes_root or arguments.ncdu)
    root = os.path.abspath(arguments.root)
    own = Artefacts() if arguments.ncdu or arguments.output.name == "-" else find_artefacts(root, arguments.output)
    load = make_loader(arguments, root)
    options = replace(options, exclude=(*options.exclude, *own.globs))
    world: World = join_world()
    post = RankMessages(world) if world.size > 1 else None
    if post is None or world.is_root:
        if arguments.arrays:
            print("--arrays has no effect: lading batch reads find.json itself; leave it out", file=sys.stderr)
        code = 1
        try:
            code = lead(arguments, options, root, post, own.names, source, load)
        except LadingError as error:
            code = error.exit_code
            raise
        finally:
            for rank in range(1, world.size):
                post.send(rank, ("exit", code))  # type: ignore[union-attr]
        return code
    try:
        if source is None:  # a list is read by the first rank alone
            crawl(root, options, post, lambda _: None, load)
    except UsageError as error:
        return error.exit_code  # the first rank says it
    while (mail := post.expect())[1][0] != "exit":
        pass
    return int(mail[1][1])


if __name__ == "__main__":
    sys.exit(run_main(main))
