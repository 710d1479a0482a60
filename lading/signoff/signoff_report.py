"""What a sign-off says: as JSON, and as lines for a terminal.

Input: a ``SignoffResult``. Output: a record, lines.
Invariant: both have the same counts; a name in a line is fit for a terminal.
"""

from typing import Any

from lading.core.command_line import printable
from lading.core.progress import counted, format_bytes, format_count, format_seconds
from lading.core.version import provenance
from lading.signoff.conclusion import SignoffResult
from lading.signoff.fault_kinds import BY_NAME, UNREAD, FaultLevel, SignoffRules
from lading.signoff.run_log import SignoffFinding

FORMAT = 1
SHOWN = 5  # names of each kind on the terminal


def describe(result: SignoffResult, rules: SignoffRules, root: str, started: str, seconds: float) -> dict[str, Any]:
    """Return a result for machines."""
    counts, sums = result.counts, result.sums
    expected = rules.expected
    return {
        "format": FORMAT,
        "kind": "signoff",
        "root": root,
        "started": started,
        "seconds": round(seconds, 3),
        "written_by": provenance(),
        "entries": {
            "directories": counts.directories,
            "files": counts.files,
            "links": counts.links,
            "others": counts.others,
        },
        "bytes": counts.bytes,
        "read": {"files": counts.read_files, "bytes": counts.read_bytes},
        "reused": {"files": counts.reused_files, "bytes": counts.reused_bytes},
        "checksums": {
            "files": counts.sum_files,
            "agreeing": sums.agreeing,
            "files_with": sums.summed_files,
            "files_without": sums.without_sum,
            "not_compared": sums.unread,
            "written": result.written,
        },
        "errors": result.at(FaultLevel.ERROR, rules),
        "notes": result.at(FaultLevel.NOTE, rules),
        "unread": {kind: result.kinds[kind] for kind in UNREAD if result.kinds[kind]},
        "named": {kind: [finding.as_json() for finding in found] for kind, found in sorted(result.named.items())},
        "checks": {kind: str(level) for kind, level in rules.levels.items()},
        "expected": {
            "owner": expected.owner,
            "group": expected.group,
            "file_mode": None if expected.file_mode is None else f"{expected.file_mode:04o}",
            "directory_mode": None if expected.directory_mode is None else f"{expected.directory_mode:04o}",
            "freeze_ns": expected.freeze_ns,
            "crowd": expected.crowd,
            "prefix": expected.prefix,
        },
    }


def lines_of_result(result: SignoffResult, rules: SignoffRules, seconds: float) -> list[str]:
    """Return the lines that end the stage: counts, then each kind that was found, with its first names."""
    counts, sums = result.counts, result.sums
    lines = [
        f"signoff  {counted(counts.files, 'file')}, {format_bytes(counts.bytes)}, in "
        f"{counted(counts.directories, 'directory', 'directories')}, in {format_seconds(seconds)}; read "
        f"{counted(counts.read_files, 'file')}, {format_bytes(counts.read_bytes)}"
        + (f"; {format_count(counts.reused_files)} were read by an earlier run" if counts.reused_files else ""),
        f"checksums  {format_count(sums.agreeing)} agree, of {counted(sums.summed_files, 'file')}; "
        f"{counted(sums.without_sum, 'file has', 'files have')} none; {counted(counts.sum_files, 'checksum file')}",
    ]
    if result.written:
        total = sum(result.written.values())
        lines.append(f"wrote {counted(len(result.written), 'checksum file')} for {counted(total, 'file')}")
    ordered = [kind for level in (FaultLevel.ERROR, FaultLevel.NOTE) for kind in result.at(level, rules)]
    unread = [kind for kind in UNREAD if result.kinds[kind]]
    width = max(map(len, [*ordered, *unread]), default=0)
    for kind in [*ordered, *unread]:
        word = "unread" if kind in UNREAD else str(rules.levels[kind])
        lines.append(f"{word:<6} {kind:<{width}} {format_count(result.kinds[kind]):>9}  {_names(result, kind)}")
    return lines


def _names(result: SignoffResult, kind: str) -> str:
    found = result.named[kind]
    more = " …" if result.kinds[kind] > min(SHOWN, len(found)) else ""
    return ", ".join(map(show_finding, found[:SHOWN])) + more


def show_finding(finding: SignoffFinding) -> str:
    """Return an entry and what there is to say of it, fit for a terminal."""
    path = printable(finding.path)
    return f"{path} ({printable(finding.detail)})" if finding.detail else path


def table_rows(result: SignoffResult, rules: SignoffRules) -> list[dict[str, Any]]:
    """Return what a page shows of each kind that was found: errors first, then what was not read, then notes."""
    ordered = [*result.at(FaultLevel.ERROR, rules), *(kind for kind in UNREAD if result.kinds[kind])]
    ordered += result.at(FaultLevel.NOTE, rules)
    return [
        {
            "kind": kind,
            "group": BY_NAME[kind].group,
            "level": "unread" if kind in UNREAD else str(rules.levels[kind]),
            "meaning": BY_NAME[kind].meaning,
            "count": result.kinds[kind],
            "named": [(finding.path, finding.detail) for finding in result.named[kind]],
        }
        for kind in ordered
    ]
