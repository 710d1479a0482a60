"""The record of a run: ``runs/<time>-<writer>.json``, what one upload or verify came to.

Input: its JSON object. Output: the same object, with everything that is read
of it again of its type.
Invariant: a record with a member of another type is refused whole.
"""

from typing import Any

from lading.core.bounded import JsonMembers

# What each stage counts; other members may be there.
_COUNTS: dict[str, dict[str, tuple[str, ...]]] = {
    "upload": {"batches": ("listed", "completed"), "objects": ("sent", "left"), "bytes": ("sent",)},
    "verify": {"objects": ("listed", "proven")},
}


def check_run(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record, what an earlier edition did not write filled in; ``ValueError`` when it is none of a run."""
    stage = JsonMembers(record).text("stage")
    record = {"started": "", "seconds": 0.0, "stopped": None, "complete": False, **record}
    take = JsonMembers(record)
    take.text("started"), take.real("seconds"), take.text_or_none("stopped"), take.flag("complete")
    for group, names in _COUNTS.get(stage, {}).items():
        record[group] = {**dict.fromkeys(names, 0), **take.object(group, {})}
        for name in record[group]:
            JsonMembers(record[group], group).number(name)
    reasons = take.members("reasons", {})
    for reason in take.object("reasons", {}):
        reasons.number(reason)
    take.members("crawl", {}).flag("complete", True)
    return record
