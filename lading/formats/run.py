"""The record of a run: ``runs/<time>-<writer>.json``, what one upload or verify came to.

Input: its JSON object. Output: the same object, with everything that is read
of it again of its type.
Invariant: a record without what its stage always writes is refused whole.
"""

from typing import Any

from lading.bounded import Members

# What each stage counts; other members may be there.
_COUNTS: dict[str, dict[str, tuple[str, ...]]] = {
    "upload": {"batches": ("listed", "completed"), "objects": ("sent", "left"), "bytes": ("sent",)},
    "verify": {"objects": ("listed", "proven")},
}


def check_run(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record; ``ValueError`` when it is none of a run."""
    take = Members(record)
    stage = take.text("stage")
    take.text("started")
    take.real("seconds")
    for group, names in _COUNTS.get(stage, {}).items():
        counts = take.members(group)
        for name in {*names, *record[group]}:
            counts.number(name)
    if stage == "upload":
        take.text_or_none("stopped", None)
        record.setdefault("stopped", None)
        for reason, count in take.object("reasons", {}).items():
            Members({reason: count}, "reasons").number(reason)
    if stage == "verify":
        take.flag("complete")
    take.members("crawl", {}).flag("complete", True)
    return record
