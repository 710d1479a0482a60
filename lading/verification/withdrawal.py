"""Delete objects of a release on purpose: exactly those that were named, and only while they are the verified ones.

Input: a manifest, the names of some of its objects, a reason. Output: the
objects deleted (where the bucket keeps versions, hidden by delete markers);
records in the journal; the manifest without their rows, which names them.
Invariant: nothing is deleted that the listing does not show with the size and
the ETag of its row, looked at just before. What is about to be deleted is
written down first, so that the same command goes on after a kill at any
moment, and an object that is gone without such a record is never taken for
withdrawn. Memory: the rows that were named.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lading.core.errors import usage_errors
from lading.core.progress import Progress, counted, format_count
from lading.core.worker_threads import WorkerPool
from lading.journal.index_rows import hash_keys
from lading.journal.journal_index import JournalIndex
from lading.journal.journal_writer import JournalWriter
from lading.journal.records import (
    VerificationRecord,
    Withdrawal,
    encode_invalidated,
    encode_verification,
    encode_withdrawal,
)
from lading.objectstore.listing import key_order
from lading.objectstore.object_info import ObjectInfo, StoreError
from lading.objectstore.target import FailureKind
from lading.tree.coverage import Coverage
from lading.verification.manifest import Manifest, ManifestEnd, ManifestRow, WithdrawnObject, write_manifest
from lading.verification.wanted_objects import describe_withdrawal

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

Proofs = dict[str, VerificationRecord | None]
GROUP = 100  # objects between two writings of the journal
MOST_NAMED = 20
WITHDRAWN = "withdrawn"  # the ``checksum`` of a row that is in the manifest no more
ABSENT = ("404", "NoSuchKey", "NotFound")


@dataclass
class WithdrawalResult:
    """What was done; ``refused`` and ``failed`` hold (path, reason).

    deleted   in this run; ``bytes`` of them
    finished  gone already, by a run that was killed before it could say so
    before    withdrawn by earlier runs
    """

    deleted: int = 0
    bytes: int = 0
    finished: int = 0
    before: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


def select_rows(
    manifest: Manifest, names: Sequence[str], journaled: Iterable[WithdrawnObject] = ()
) -> list[ManifestRow]:
    """Return the rows that were named, by path or by key; of what is withdrawn already the row that it had.

    ``journaled``: what the journals say is withdrawn, or was about to be; a verify since may have left out its rows.

    Raises ``UsageError`` with a line for each name that is none of the manifest's, before anything is done.
    """
    wanted = set(names)
    by_path: dict[str, ManifestRow] = {}
    by_key: dict[str, ManifestRow] = {}
    for row in manifest.rows():
        if row.path in wanted:
            by_path[row.path] = row
        if row.key in wanted:
            by_key[row.key] = row
    for item in (*manifest.withdrawn(), *journaled):
        for name, rows in ((item.path, by_path), (item.key, by_key)):
            if name in wanted:
                rows.setdefault(name, _row_of(item))
    unknown = [name for name in dict.fromkeys(names) if name not in by_path and name not in by_key]
    if unknown:
        more = [f"… and {len(unknown) - MOST_NAMED} more"] if len(unknown) > MOST_NAMED else []
        lines = [f"{name!r} is neither a path nor a key of {manifest.path}" for name in unknown[:MOST_NAMED]]
        raise usage_errors(["nothing was withdrawn:", *lines, *more])
    chosen = (by_path.get(name) or by_key[name] for name in names)
    found = {row.key: row for row in chosen}
    return sorted(found.values(), key=lambda row: key_order(row.key))


def _row_of(item: WithdrawnObject) -> ManifestRow:
    about = item.path, item.key, item.size, 0, None, item.sha256, item.etag, item.version_id
    return ManifestRow(*about, WITHDRAWN, "", item.withdrawn_at)


def find_difference(row: ManifestRow, listed: ObjectInfo | None) -> str:
    """Return why what the bucket lists is not the verified object of a row; empty when it is."""
    if listed is None:
        return "the bucket does not list it, and no earlier withdraw was about to delete it"
    if not row.etag:
        return "the manifest has no ETag of it, so nothing says that it is the object that was verified"
    if (listed.size, listed.etag) != (row.size, row.etag):
        return f"somebody changed it: {counted(listed.size, 'byte')}, ETag {listed.etag}, since {listed.modified}"
    return ""


class ObjectRemover:
    """Deletes the objects of rows; ``generations`` counts on from the journals' records."""

    def __init__(
        self, store: "ObjectStore", ledger: JournalIndex, journal: JournalWriter, reason: str, workers: int
    ) -> None:
        self._store, self._ledger, self._journal, self._reason = store, ledger, journal, reason
        self._pool = WorkerPool(workers, "withdraw")
        self.result = WithdrawalResult()
        self.gone: dict[str, WithdrawnObject] = {}

    def close(self) -> None:
        """End the threads."""
        self._pool.close()

    def run(self, rows: Sequence[ManifestRow], progress: Progress) -> None:
        """Withdraw the rows, a group at a time: write down, delete, write down."""
        waiting = iter(rows)
        while group := list(islice(waiting, GROUP)):
            self._withdraw(group)
            progress.show(f"{format_count(self.result.deleted)} of {counted(len(rows), 'object')} withdrawn")

    def _withdraw(self, rows: Sequence[ManifestRow]) -> None:
        keys = [row.key for row in rows]
        found = self._ledger.find(hash_keys(keys))
        proofs = list(self._ledger.proofs(keys, found))
        begun: list[tuple[ManifestRow, Withdrawal, int, bool]] = []  # with the generation of what comes next
        records = []
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        listed = self._store.find(keys, doubt=GROUP)
        for place, (row, earlier) in enumerate(zip(rows, self._ledger.withdrawals(keys, found))):
            generation = found.generation(place)
            done = earlier.done if earlier is not None else row.checksum == WITHDRAWN
            if done and row.key not in listed:
                self.result.before += 1
                if earlier is not None:
                    self.gone[row.key] = describe_withdrawal(earlier)
                continue
            pending = earlier is not None and not earlier.done
            difference = "" if pending and row.key not in listed else find_difference(row, listed.get(row.key))
            if difference:
                self.result.refused.append((row.path, difference))
                if pending:
                    records.append(encode_invalidated(row.key, generation, "changed"))
                continue
            if pending and earlier is not None:
                begun.append((row, earlier, generation, row.key in listed))
                continue
            planned = row.size, row.mtime_ns
            if found.rank[place] >= 0 and found.rank[place] % 2 == 0:
                planned = int(found.size[place]), int(found.mtime[place])
            elif earlier is not None:
                planned = earlier.planned
            sha256, version = row.sha256 or row.file_sha256, row.version_id
            one = Withdrawal(
                row.key, row.path, row.size, row.etag, sha256, version, self._reason, moment, planned, done=False
            )
            records.append(encode_withdrawal(one, generation))
            begun.append((row, one, generation + 1, True))
        self._journal.write(records)
        self._delete(begun, dict(zip(keys, proofs)))

    def _delete(self, begun: Iterable[tuple[ManifestRow, Withdrawal, int, bool]], proofs: Proofs) -> None:
        """Delete what was written down, and write down what came of it."""
        work = [(entry, self._pool.submit(self._delete_one, entry[0]) if entry[3] else None) for entry in begun]
        records = []
        stop: StoreError | None = None
        for (row, one, generation, _), future in work:
            try:
                difference = future.result() if future is not None else None
            except StoreError as error:
                if error.failure is FailureKind.STOP:
                    stop = stop or error
                else:
                    self.result.failed.append((row.path, str(error)))
                continue
            if difference:
                # What was verified is not there: its record holds as little as before, and verify will say so.
                self.result.refused.append((row.path, difference))
                proof = proofs.get(row.key)
                again = encode_verification(replace(proof, generation=generation)) if proof else None
                records.append(again or encode_invalidated(row.key, generation, "changed"))
                continue
            self.result.deleted += future is not None
            self.result.finished += future is None
            self.result.bytes += row.size
            finished = replace(one, done=True)
            records.append(encode_withdrawal(finished, generation))
            self.gone[row.key] = describe_withdrawal(finished)
        self._journal.write(records)
        if stop is not None:
            raise stop

    def _delete_one(self, row: ManifestRow) -> str:
        """Delete an object that is the verified one still; returns why it is not."""
        now = self._store.keys.ask([row.key]).get(row.key)
        if difference := find_difference(row, now):
            return difference
        try:
            self._store.delete(row.key)
        except StoreError as error:
            if error.code not in ABSENT:
                raise
        if row.key in self._store.keys.ask([row.key]):
            raise StoreError(FailureKind.OBJECT, "the bucket lists it still after it was deleted; run again later")
        return ""


def rewrite_manifest(manifest: Manifest, gone: dict[str, WithdrawnObject], output: Path) -> ManifestEnd:
    """Write a manifest again without the rows of what is gone, which it names instead; returns its end."""

    def withdrawn() -> list[WithdrawnObject]:
        known = {item.key: item for item in manifest.withdrawn()} | gone
        return sorted(known.values(), key=lambda item: key_order(item.key))

    end = manifest.end
    coverage = Coverage(unreadable=end.unreadable, named=end.named, not_regular=end.not_regular)
    return write_manifest(
        output,
        manifest.header,
        (row for row in manifest.rows() if row.key not in gone),
        complete=end.complete,
        coverage=coverage,
        source=lambda: end.source,
        entries=manifest.entries(),
        withdrawn=withdrawn,
    )
