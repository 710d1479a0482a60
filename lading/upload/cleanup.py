"""Abort what killed runs left behind: multipart uploads of our keys that nobody will finish.

Input: the bucket's unfinished uploads, the plan's keys, the part logs. Output:
how many were aborted.
Invariant: only keys of this plan, only uploads begun before this run, never
one that a resumable file would go on with; and only while this process is the
only one that works on the plan.
"""

from typing import TYPE_CHECKING

from lading.plan.objects import PlannedObjects
from lading.upload.engines.multipart import resumable

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore


def abort_stale_uploads(store: "ObjectStore", inventory: PlannedObjects, before: float) -> int:
    """Abort our abandoned uploads begun before ``before`` (seconds since 1970); raises ``StoreError``."""
    kept = resumable(inventory.journal)
    found = [
        (key, upload)
        for prefix in inventory.keys.roots()
        for key, upload, begun in store.multipart.unfinished(prefix)
        if begun < before and upload not in kept
    ]
    ours = inventory.holds({key for key, _ in found}) if found else set()
    for key, upload in found:
        if key in ours:
            store.multipart.abort(key, upload)
    return sum(key in ours for key, _ in found)
