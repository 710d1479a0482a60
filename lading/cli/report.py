"""``python3 -m lading status|page``: what the artefacts say, as a table or as pages.

Input: the directory of the artefacts. Output: a table or JSON on stdout, or
``report/index.html`` and ``report/tree.html``.
Invariant: no artefact is written or changed.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.live import Live

from lading.compress import viewers
from lading.compress.names import REPORT
from lading.compress.preview.shown_outputs import CompressionReport, ShownOutput, of_directory, shown_outputs
from lading.core.bounded import parse_json
from lading.core.command_line import Parser, parse_duration, run_main
from lading.core.errors import UsageError
from lading.core.exit_codes import SOME_FAILED
from lading.core.progress import counted, format_seconds
from lading.report.facts import Facts, gather, summarise
from lading.report.run_page import write_run_page
from lading.report.status import healthy, render, show
from lading.report.tree_page import Site, write_tree_page
from lading.tree.json_reader import read_tree
from lading.tree.size_tree import DIRECTORY, FILE, FlatTree, read_meta

# How far below the top of a release reports of compressions are looked for, and how many entries and reports.
DEPTH, MOST_SEEN, MOST_CHILDREN, MOST_SHOWN = 3, 200_000, 20_000, 100


def make_parser() -> Parser:
    """Return the command line."""
    parser = Parser(
        prog="python3 -m lading.report", description="Show what the artefacts of a release say.", codes=[SOME_FAILED]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="a table in the terminal")
    status.add_argument("--directory", type=Path, default=Path(), help="where the artefacts are (.)")
    status.add_argument("--json", action="store_true", help="one JSON object instead")
    status.add_argument("--watch", metavar="TIME", help="show it again at this interval, like 5s, until Ctrl-C")
    page = commands.add_parser("report", aliases=["page"], help="static pages that need no server")
    page.add_argument("--directory", type=Path, default=Path(), help="where the artefacts are (.)")
    page.add_argument("-o", "--output", type=Path, default=Path("report"), help="directory of the pages (report)")
    page.add_argument("--index", default="", metavar="URL", help="URL of the public bucket, for links to the files")
    page.add_argument(
        "--root", default="", help="the directory that maps to the top of the bucket (default: the release)"
    )
    page.add_argument("--remap", default="{}", metavar="JSON", help="as given to upload.py")
    return parser


def parse_site(title: str, release: str, index: str, root: str, remap: str) -> Site:
    """Return where a visitor finds the objects; ``UsageError`` for a remap that is no JSON object."""
    try:
        rules = parse_json(remap or "{}")
        if not isinstance(rules, dict) or not all(isinstance(target, str) for target in rules.values()):
            raise ValueError("not an object of names")
    except ValueError as error:
        raise UsageError(f"--remap is not a JSON object of directory names ({error})") from error
    inner = os.path.relpath(release, root) if root else "."
    if inner.startswith(".."):
        raise UsageError(f"the release {release} is not below root {root}")
    prefix = "" if inner == "." else f"{inner}/"
    pairs = [
        (os.path.relpath(source, release) if os.path.isabs(source) else os.path.normpath(source), target.strip("/"))
        for source, target in rules.items()
    ]
    base = index.rstrip("/") + "/" if index else ""
    return Site(title, base, prefix, tuple(sorted(pairs, key=lambda pair: -len(pair[0]))))


def find_reports(tree: FlatTree, root: Path) -> Iterator[CompressionReport]:
    """Yield the reports of compressions near the top of a release, as far as its files can be read here."""
    waiting, seen = [(0, Path(), 0)], 0
    while waiting and seen < MOST_SEEN:
        node, folder, depth = waiting.pop(0)
        children = list(itertools.islice(tree.children(node), MOST_CHILDREN))
        seen += len(children)
        for child in children:
            if tree.types[child] == DIRECTORY and depth < DEPTH and not tree.name(child).endswith(".zarr"):
                waiting.append((child, folder / tree.name(child), depth + 1))
            elif tree.types[child] == FILE and tree.name(child) == REPORT:
                found = of_directory(root, "" if folder == Path() else folder.as_posix(), REPORT)
                if found:
                    yield found


def find_outputs(facts: Facts, tree: FlatTree, root: Path, index: str) -> list[ShownOutput]:
    """Return what compressions in a release made, with links where its bucket is known."""
    address = index.rstrip("/")
    if not address and facts.manifest:
        head = facts.manifest[0]
        address = viewers.public_address(head.bucket, head.prefix.strip("/"), head.endpoint, None).rstrip("/")
    return shown_outputs(list(itertools.islice(find_reports(tree, root), MOST_SHOWN)), address)


def write_pages(directory: Path, output: Path, index: str, root: str, remap: str) -> str:
    """Write the pages; returns the line that ends the command."""
    started = time.monotonic()
    facts = gather(directory)
    if facts.tree is None and facts.plan is None and not facts.runs and facts.manifest is None:
        raise UsageError(f"{directory.absolute()} has no artefact to report on; run: make find.json")
    entries = 0
    outputs: list[ShownOutput] = []
    tree_file = directory / "find.json"
    if not tree_file.exists():
        tree_file = directory / "find.json.zst"
    if facts.tree is not None and tree_file.exists():
        found = read_tree(tree_file)
        release = read_meta(directory / "find.meta.json").root
        site = parse_site(found.tree.name(0) or release, release, index, root, remap)
        write_tree_page(found.tree, output, site, found.sha256)
        entries = len(found.tree)
        outputs = find_outputs(facts, found.tree, Path(release), index and site.base + site.prefix)
    page = write_run_page(facts, output, tree_page=bool(entries), outputs=[asdict(one) for one in outputs])
    seconds = format_seconds(time.monotonic() - started)
    return f"report  {page} and a browser over {counted(entries, 'entry', 'entries')}, in {seconds}"


def watch(directory: Path, seconds: float) -> None:
    """Show the table until interrupted."""
    with Live(render(gather(directory)), console=Console(), auto_refresh=False) as live:
        while True:
            time.sleep(seconds)
            live.update(render(gather(directory)), refresh=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; status returns 3 when something needs a person."""
    arguments = make_parser().parse_args(argv)
    if arguments.command != "status":
        print(write_pages(arguments.directory, arguments.output, arguments.index, arguments.root, arguments.remap))
        return 0
    if arguments.watch:
        watch(arguments.directory, max(1.0, parse_duration(arguments.watch)))
    facts = gather(arguments.directory)
    if arguments.json:
        print(json.dumps(summarise(facts)))
    else:
        show(facts)
    return 0 if healthy(facts) else 3


if __name__ == "__main__":
    sys.exit(run_main(main))
