"""``lading logs RELEASE``: what the last run of each stage did, each failure once.

Input: the folder of a release, or its name in a list of releases. Output: lines on stdout.
Invariant: reads only.
"""

import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from lading.core.command_line import Parser, printable, run_main
from lading.core.errors import UsageError
from lading.journal.stage_result import STAGES
from lading.report.run_story import read_story

LIST = "releases.yaml"


def make_parser() -> Parser:
    """Return the command line."""
    parser = Parser(prog="lading logs", description="Say what the last run of each stage of a release did.")
    parser.add_argument(
        "release", metavar="RELEASE", nargs="?", default=".", help="its folder, or its name in the list"
    )
    parser.add_argument(
        "--releases", type=Path, default=Path(LIST), metavar="LIST", help=f"the list, or a directory ({LIST})"
    )
    parser.add_argument("--stage", choices=STAGES, help="this stage alone")
    parser.add_argument("--tail", type=int, default=0, metavar="N", help="the last N lines of its log, too")
    return parser


def find_release(text: str, releases: Path) -> tuple[Path, Path | None]:
    """Return the folder that a word means, and where its fleet keeps logs: a release of the list comes first."""
    if releases.exists() and "/" not in text and text != ".":
        from lading.report.release_list import read_releases  # here: it needs an extra

        settings = read_releases(releases)
        found = [entry.folder for entry in settings.releases if entry.name == text]
        if found:
            return found[0], settings.logs / text
    if not Path(text).is_dir():
        raise UsageError(f"{text} is neither a folder nor a release of {releases}; lading fleet status lists them")
    return Path(text), None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the story."""
    arguments = make_parser().parse_args(argv)
    folder, logs = find_release(arguments.release, arguments.releases)
    stories = read_story(folder, (arguments.stage,) if arguments.stage else STAGES, logs)
    if not stories:
        raise UsageError(f"no stage left a result in {folder.absolute()}; run one, like: make upload")
    for story in stories:
        for line in story.lines():
            print(printable(line))
        if arguments.tail and story.log is not None:
            with story.log.open("rb") as stream:
                for raw in deque(stream, arguments.tail):
                    print(f"  | {printable(raw.decode('utf-8', 'replace').rstrip())}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
