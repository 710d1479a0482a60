"""``python3 -m jobs explain LIST``: each value of each job and where it came from.

Input: a job list. Output: a table per row on stdout, or with ``--json`` one
object per row; secrets are masked.
Invariant: shows what ``run`` with the same flags would use, and does nothing.
"""

import json
from collections.abc import Sequence

from lading.core.command_line import printable
from lading.sessions.commands.arguments import checked_list, list_parser
from lading.sessions.job_model import Resolved
from lading.sessions.precedence import Traced, is_secret, redact


def main(argv: Sequence[str] | None = None) -> int:
    """Print the values of every row."""
    parser = list_parser("explain", "Show each value of each job and where it came from.")
    parser.add_argument("--json", action="store_true", help="one JSON object per row on stdout")
    parser.add_argument("--row", type=int, metavar="LINE", help="only the row on this line of the list")
    parser.add_argument(
        "--no-parameters", action="store_true", help="do not read the parameter store that the list names"
    )
    options = parser.parse_args(argv)
    checked = checked_list(options, parameters=not options.no_parameters)
    rows = [row for row in checked.rows if options.row in (None, row.line)]
    for row in rows:
        print(json.dumps(_record(row)) if options.json else _text(row))
    return 2 if any(row.faults for row in rows) else 0


def _record(row: Resolved) -> dict[str, object]:
    return {
        "line": row.line,
        "destination": row.job.destination if row.job else None,
        "values": [{"name": value.name, "value": _json(value), "source": value.source} for value in row.values],
        "faults": [str(fault) for fault in row.faults],
    }


def _json(value: Traced) -> object:
    if is_secret(value.name) or not isinstance(value.value, (str, int, float, bool, list, dict, type(None))):
        return value.shown()
    return redact(value.value)


def _text(row: Resolved) -> str:
    width = max((len(value.name) for value in row.values), default=0)
    shown = {value.name: value.shown() for value in row.values}
    room = min(60, max((len(text) for text in shown.values()), default=0))
    lines = [f"line {row.line}  {row.job.destination if row.job else '(refused)'}"]
    for value in row.values:
        lines.append(f"  {value.name:<{width}}  {printable(shown[value.name]):<{room}}  {value.source}")
    return "\n".join([*lines, *(f"  {printable(str(fault))}" for fault in row.faults), ""])
