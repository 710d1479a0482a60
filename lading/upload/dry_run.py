"""A dry run: what would be sent, and how.

Input: an inventory. Output: one line per object on stdout and the sums on
stderr, or the sums alone as JSON.
Invariant: reads the tree and the journals; writes nothing, asks the bucket
nothing, reads no file of the release.
"""

import json
import sys

from lading.core.command_line import printable
from lading.core.progress import format_bytes, format_count
from lading.journal.journal_index import JournalIndex
from lading.objectstore.target import Target
from lading.plan.objects import PlannedObjects
from lading.tree.coverage import describe_gap, encode_coverage
from lading.upload.engines.base import UploadTask
from lading.upload.engines.s5cmd import command_line
from lading.upload.prepare import content_type


def rehearse(inventory: PlannedObjects, target: Target, *, as_json: bool = False) -> int:
    """Print the command of each object that is not proven; returns 0.

    Raises ``Disagreement`` when the journals are of another bucket or release.
    """
    ledger = JournalIndex(inventory.journal)
    ledger.check(str(inventory.place), target.endpoint)
    inventory.audit(ledger)
    count = size = 0
    for number in range(len(inventory.batches)):
        for item in inventory.unproven(number, ledger):
            fault = inventory.capacity.object_fault(item.size)
            if fault:
                print(f"not sent: {printable(item.path)}: {fault}", file=sys.stderr)
                continue
            task = UploadTask(item.local, item.key, item.size, item.mtime or 0, content_type(item.path))
            if not as_json:
                print(command_line(task, task.path, target.bucket, target.manner))
            count += 1
            size += item.size
    if as_json:
        crawl = encode_coverage(inventory.coverage)
        print(json.dumps({"format": 1, "kind": "rehearsal", "objects": count, "bytes": size, "crawl": crawl}))
    if gap := describe_gap(inventory.coverage, printable):
        print(f"incomplete: {gap}", file=sys.stderr)
    print(f"would send {format_count(count)} objects, {format_bytes(size)}; nothing was sent", file=sys.stderr)
    return 0
