"""``python3 -m jobs check LIST``: every fault of every row in one answer.

Input: a job list. Output: ``line:column: message`` lines on stdout, or with
``--json`` one object; exit 0 without fault, 2 with one.
Invariant: nothing is written. What a job needs later is looked for now:
its sources, its files of settings, its secrets; ``--offline`` leaves that out
and contacts nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from lading.core.command_line import printable
from lading.core.progress import counted
from lading.sessions import early
from lading.sessions.commands.arguments import checked_list, list_parser, list_path, load_presets


def main(argv: Sequence[str] | None = None) -> int:
    """Print the faults of a list."""
    parser = list_parser("check", "List every error in a job list, as line:column: message.")
    parser.add_argument("--offline", action="store_true", help="check the list alone, not sources and secrets")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(argv)
    checked = checked_list(options, parameters=not options.offline)
    if not options.offline:
        more = early.find_errors(checked, list_path(options).parent, load_presets(options.presets).site)
        checked = replace(checked, faults=tuple(sorted({*checked.faults, *more})))
    if options.json:
        jobs = [{"line": job.line, "destination": job.destination} for job in checked.jobs]
        print(json.dumps({"jobs": jobs, "faults": [asdict(fault) for fault in checked.faults]}))
    else:
        for fault in checked.faults:
            print(printable(str(fault)))
        if not checked.faults:
            print(f"{counted(len(checked.jobs), 'job')}, no errors")
    return 2 if checked.faults else 0
