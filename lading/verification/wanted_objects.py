"""What a plan wants of the bucket, in key order, beside what the bucket lists.

Input: an inventory, the journal index, a listing in key order. Output: pairs
of an object of the plan and an object of the bucket, of which either may lack;
what was deleted on purpose, apart.
Invariant: memory is bounded: what is sorted is sorted in pieces on disk.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import IO, Any

from lading.core.atomic import naming
from lading.core.external_sort import ExternalSort, values_of
from lading.core.merging import full_join
from lading.journal.index_rows import hash_keys
from lading.journal.journal_index import JournalIndex
from lading.journal.records import VerificationRecord, Withdrawal
from lading.objectstore.listing import key_order
from lading.objectstore.object_info import ObjectInfo
from lading.plan.objects import PlannedObjects
from lading.plan.planned_object import PlannedObject
from lading.verification.findings import Findings
from lading.verification.manifest import WithdrawnObject

PIECE = 200_000  # objects held in memory at once
_ITEM, _PROOF, _WITHDRAWAL = map(values_of, (PlannedObject, VerificationRecord, Withdrawal))


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object of the plan and what the journals know of it."""

    item: PlannedObject
    proof: VerificationRecord | None
    withdrawal: Withdrawal | None = None


def sorted_wanted(inventory: PlannedObjects, journal_index: JournalIndex, scratch: Path) -> Iterator[Wanted]:
    """Yield every object of the plan in key order, with its proof, what memory does not hold from ``scratch``."""
    ordered = ExternalSort(scratch, "wanted", lambda wanted: key_order(wanted.item.key), _encode, _decode)
    for number in range(len(inventory.batches)):
        items = [item for item, _ in inventory.items(number, journal_index)]
        keys = [item.key for item in items]
        found = journal_index.find(hash_keys(keys))
        rejected = (
            journal_index.rejected(keys, found) if ((found.rank > 0) & (found.rank % 2 == 1)).any() else repeat(None)
        )
        gone: Iterable[Withdrawal | None] = repeat(None)
        if (found.state < 0).any():
            gone = journal_index.withdrawals(keys, found)
        for item, proof, other, withdrawal in zip(items, journal_index.proofs(keys, found), rejected, gone):
            if withdrawal and not _is_withdrawn(item, withdrawal):
                withdrawal = None
            ordered.add(Wanted(replace(item, rejected=other) if other else item, proof, withdrawal))
    return iter(ordered)


def _is_withdrawn(item: PlannedObject, withdrawal: Withdrawal) -> bool:
    """Tell whether a file is planned in the state that was withdrawn."""
    size, mtime = withdrawal.planned
    return item.size == size and item.mtime in (None, mtime)


def _encode(wanted: Wanted) -> list[Any]:
    proof, gone = wanted.proof, wanted.withdrawal
    return [_ITEM(wanted.item), None if proof is None else _PROOF(proof), None if gone is None else _WITHDRAWAL(gone)]


def _decode(fields: list[Any]) -> Wanted:
    item, proof, gone = fields
    item[-1] = tuple(item[-1]) if item[-1] else None  # ``rejected``: JSON has no tuples
    if gone:
        gone[-2] = tuple(gone[-2])  # ``planned``
    return Wanted(
        PlannedObject(*item), VerificationRecord(*proof) if proof else None, Withdrawal(*gone) if gone else None
    )


def merge_join(
    wanted: Iterable[Wanted], listed: Iterable[ObjectInfo]
) -> Iterator[tuple[Wanted | None, ObjectInfo | None]]:
    """Yield what is wanted beside what is listed, both in key order; either may lack."""
    return full_join(wanted, listed, lambda item: key_order(item.item.key), lambda item: key_order(item.key))


class MissingObjects:
    """What the listing lacked so far: a few in memory, more in a file without a name."""

    def __init__(self) -> None:
        self._held: list[tuple[str, int, str]] = []
        self._file: IO[str] | None = None

    def add(self, key: str, generation: int, local: str) -> None:
        """Keep a key, the generation of its record, and its file."""
        self._held.append((key, generation, local))
        if len(self._held) >= PIECE:
            if self._file is None:
                self._file = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115 - open until read
            with naming(tempfile.gettempdir()):
                self._file.writelines(json.dumps(entry) + "\n" for entry in self._held)
            self._held.clear()

    def all(self) -> Iterator[tuple[str, int, str]]:
        """Yield what was kept, once."""
        if self._file is not None:
            self._file.seek(0)
            for line in self._file:
                key, generation, local = json.loads(line)
                yield key, generation, local
            self._file.close()
        yield from self._held


class WithdrawnObjects:
    """What was deleted on purpose, in key order; ``earlier``: all that the journals say, of other plans too."""

    def __init__(self, earlier: Iterable[WithdrawnObject]) -> None:
        self._earlier = {item.key: item for item in earlier}
        self._found: list[WithdrawnObject] = []

    def takes(self, wanted: Wanted | None, listed: ObjectInfo | None, findings: Findings) -> bool:
        """Count an object that was withdrawn; False for any other."""
        key = wanted.item.key if wanted is not None else listed.key if listed is not None else ""
        earlier = self._earlier.pop(key, None) if self._earlier else None
        withdrawal = wanted.withdrawal if wanted is not None else None
        if withdrawal is None and (wanted is not None or earlier is None):
            return False
        if listed is not None:
            finished = withdrawal is None or withdrawal.done
            findings.note("returned" if finished else "unfinished", key)
            if finished:
                gone = earlier if withdrawal is None else describe_withdrawal(withdrawal)
                self._found += [gone] if gone is not None else []
            return True
        if withdrawal is not None and not withdrawal.done:
            findings.note("unfinished", key)
            return True
        if withdrawal is not None:
            findings.withdrawn += 1
            self._found.append(describe_withdrawal(withdrawal))
        return True

    def all(self) -> list[WithdrawnObject]:
        """Return what is gone, also what is in the plan no more."""
        return sorted([*self._found, *self._earlier.values()], key=lambda item: key_order(item.key))


def describe_withdrawal(one: Withdrawal) -> WithdrawnObject:
    """Return what a manifest says of a withdrawal."""
    return WithdrawnObject(one.path, one.key, one.size, one.etag, one.sha256, one.version_id, one.reason, one.moment)
