"""``python3 -m jobs check LIST``: every fault of every row in one answer.

Input: a job list. Output: ``line:column: message`` lines on stdout, or with
``--json`` one object; exit 0 without fault, 2 with one.
Invariant: nothing is contacted and nothing is written.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict

from lading.core.command_line import printable
from lading.sessions.commands.arguments import checked_list, list_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the faults of a list."""
    parser = list_parser("check", "List every fault of a job list, as line:column: message.")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(argv)
    checked = checked_list(options, parameters=False)
    if options.json:
        jobs = [{"line": job.line, "destination": job.destination} for job in checked.jobs]
        print(json.dumps({"jobs": jobs, "faults": [asdict(fault) for fault in checked.faults]}))
    else:
        for fault in checked.faults:
            print(printable(str(fault)))
        if not checked.faults:
            print(f"{len(checked.jobs)} jobs, no fault")
    return 2 if checked.faults else 0
