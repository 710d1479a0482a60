"""Compare what a plan wants with what the bucket lists, object by object in key order.

Input: an inventory, the journal index, the bucket's listing. Output: manifest rows,
records for the journal, findings.
Invariant: a row says what the bucket lists *now*; digests come from the
journal only while the file's size, times and inode and the object's ETag and
time still agree with it, else the file is read again, or the object counts as
one that others put there. A file that has other bytes in the very state in
which it was read is never a reason to replace its object: one of the two is
damaged, and nobody knows which. Memory: rows are sorted in pieces on disk.
"""

import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from lading.checksums.digest import CORES, FileDigests, FileState, chunk_slices, digest_files
from lading.checksums.kept_digests import KeptDigests
from lading.core.opening import Root, not_regular
from lading.core.progress import Progress, counted
from lading.core.worker_threads import WorkerPool
from lading.journal.journal_writer import JournalWriter, NoJournal
from lading.journal.records import (
    PRESENT,
    VerificationRecord,
    encode_invalidated,
    encode_verification,
    in_state,
    is_state,
)
from lading.objectstore.client import ObjectStore
from lading.objectstore.object_info import ARCHIVED, ObjectInfo, StoreError
from lading.objectstore.target import FailureKind
from lading.verification.compare import (
    Comparison,
    by_etag,
    has_same_etag,
    is_same_content,
    is_same_object,
    make_record,
    planned,
    stat_files,
)
from lading.verification.findings import Findings
from lading.verification.manifest import ManifestRow, describe_verification
from lading.verification.published import is_of_lading
from lading.verification.read_sample import Sample
from lading.verification.sample import FileSample
from lading.verification.wanted_objects import MissingObjects, Wanted, WithdrawnObjects

GROUP = 1000
ASKED = 1000  # missing objects that are asked for one by one before any proof is taken back
MOST_CONTRADICTED = 1000  # of them that are there all the same: then the listing is not to be believed, nor asked about
MOST_ASKED = 100_000  # and so many requests at most: a few minutes
ASKED_AT_ONCE = 100
MOST_LOOKED_FOR = 100_000  # files of objects that were never sent: a plan may have a billion of these
ARCHIVED_REASON = "it is archived, so its bytes cannot be compared; thaw it (lading restore --thaw) and verify again"
NO_SOURCE = "the local file is gone"
LEFT_OUT = "the listing leaves it out, but a request for it finds it"

GONE = (errno.ENOENT, errno.ENOTDIR)  # ENOTDIR: a directory above is a file by now


@dataclass(frozen=True, slots=True)
class Look:
    """What a file looks like, and its digests where it was to be read."""

    status: os.stat_result | OSError
    digests: FileDigests | OSError | None


@dataclass(frozen=True, slots=True)
class CompareResult:
    """What a comparison came to: the proof that holds now, or none and which finding that is.

    reason  for people, beside the key
    void    why the old proof holds no more, for the journal; empty when nothing speaks against it
    spurned the object has the file's ETag and is another all the same
    note    a record for the journal that is no proof
    """

    proof: VerificationRecord | None
    kind: str = ""
    reason: str = ""
    void: str = ""
    rejected: bool = False
    note: VerificationRecord | None = None


DIFFERS = CompareResult(None, "differing", void="differs")
REJECTED = CompareResult(None, "differing", void="differs", rejected=True)


class Audit:
    """Compares wanted with listed objects; makes the manifest's rows."""

    def __init__(
        self,
        store: ObjectStore,
        comparison: Comparison,
        journal: JournalWriter | NoJournal,
        deep: Sample,
        files: FileSample | None = None,
        root: Root | None = None,
        *,
        is_copy: bool = False,
        prefix: str = "",
        roots: Sequence[str] = (),
        gone: WithdrawnObjects | None = None,
        kept: KeptDigests | None = None,
    ) -> None:
        """``is_copy``: the files are copies of those that were read, so that inodes and ctimes say nothing.

        ``prefix``: the place in the bucket; ``roots``: what the release's keys begin with. ``lading publish`` may have
        put something there.
        """
        self._prefix, self._roots, self._kept = prefix, roots, kept
        self.findings = Findings()
        self.gone = gone or WithdrawnObjects(())
        self._missing = MissingObjects()
        self._unsent: list[tuple[str, str]] = []
        self._store, self._journal, self._deep, self._comparison = store, journal, deep, comparison
        self._files, self._root = files or FileSample(None), root
        self._is_copy = is_copy
        self._lock = threading.Lock()
        self._pool = WorkerPool(max(8, len(os.sched_getaffinity(0))), "audit")

    def close(self) -> None:
        """End the threads; what hangs in a socket or a file is left behind."""
        self._pool.close()

    def rows(
        self, pairs: Iterable[tuple[Wanted | None, ObjectInfo | None]], progress: Progress
    ) -> Iterator[ManifestRow]:
        """Yield a row for each object that is proven now, in key order."""
        group: list[tuple[Wanted, ObjectInfo]] = []
        records: list[dict[str, Any]] = []
        for wanted, listed in pairs:
            if self.gone.takes(wanted, listed, self.findings):
                continue
            self.findings.source_asked += wanted is not None and self._samples(wanted)
            if wanted is None:
                if listed is not None and not is_of_lading(listed.key, self._prefix, self._roots):
                    self.findings.note("extra", listed.key)
            elif listed is None:
                self._lack(wanted)
            else:
                group.append((wanted, listed))
            if len(group) >= GROUP:
                yield from self._judge(group, records)
                group = []
                if progress.due():
                    progress.show(f"{counted(self.findings.proven, 'object')} verified")
        yield from self._judge(group, records)
        self._look_for_unsent()
        self._settle_missing(progress)

    def _lack(self, wanted: Wanted) -> None:
        if wanted.proof is None:
            self.findings.note("unsent", wanted.item.key)
            if self.findings.unsent <= MOST_LOOKED_FOR:
                self._unsent.append((wanted.item.path, wanted.item.local))
            if len(self._unsent) >= GROUP:
                self._look_for_unsent()
        else:
            self._missing.add(wanted.item.key, wanted.proof.generation, wanted.item.local)

    def _look_for_unsent(self) -> None:
        """Count what was never sent and can't be: its file is gone, which another upload would only say again."""
        for (path, _), status in zip(self._unsent, self._stat([local for _, local in self._unsent])):
            if isinstance(status, OSError) and status.errno in GONE:
                self.findings.note("vanished", path)
        self._unsent.clear()

    def _settle_missing(self, progress: Progress) -> None:
        """Take back the proofs of what the whole listing lacks, once each key was asked for by itself.

        Only here: a listing that broke off, or was out of order, lacks what
        comes later. Of a bucket that lost very much, a sample speaks for all.
        Of a listing that leaves out what is there, none does: after so many
        requests the rest is not judged.
        """
        asked = contradicted = 0
        records: list[dict[str, Any]] = []
        missing = self._missing.all()
        while some := list(islice(missing, ASKED_AT_ONCE)):
            if contradicted >= MOST_CONTRADICTED or (contradicted and asked >= MOST_ASKED):
                self.findings.unreadable += len(some)
                self.findings.unjudged += len(some)
                continue
            there: list[bool] = [False] * len(some)
            if contradicted or asked < ASKED:
                there = list(self._pool.map(self._is_there, [key for key, _, _ in some]))
                asked += len(some)
            statuses = self._stat([local for _, _, local in some])
            for (key, generation, _), found, status in zip(some, there, statuses):
                if found:
                    contradicted += 1
                    self.findings.note("unreadable", f"{key} ({LEFT_OUT})")
                else:
                    gone = isinstance(status, OSError) and status.errno in GONE
                    self.findings.sourceless += gone
                    self.findings.note("missing", f"{key} ({NO_SOURCE})" if gone else key)
                    records.append(encode_invalidated(key, generation, "lost"))
            if len(records) >= GROUP:
                self._journal.write(records)
                records.clear()
            if progress.due():
                progress.show(f"{counted(asked, 'object')} missing from the listing requested")
        self._journal.write(records)

    def _is_there(self, key: str) -> bool:
        return any(item.key == key for item in self._store.page(key)[0])

    def _judge(
        self, group: Sequence[tuple[Wanted, ObjectInfo]], records: list[dict[str, Any]]
    ) -> Iterator[ManifestRow]:
        """Yield the rows of a group, in order; what needs files or bytes runs in threads."""
        sizes = [listed.size for _, listed in group]
        looks: list[tuple[slice, Future[list[Look]]]] = [
            (piece, self._pool.submit(self._look, group[piece])) for piece in chunk_slices(sizes, CORES)
        ]
        work: list[Future[CompareResult] | CompareResult] = []
        for piece, future in looks:
            for (wanted, listed), look in zip(group[piece], future.result()):
                self._count_source(wanted, look)
                if look.digests is not None or self._asks_more(wanted, listed):
                    work.append(self._pool.submit(self._ask, wanted, listed, look))
                else:
                    work.append(self._ask(wanted, listed, look))
        for (wanted, listed), answer in zip(group, work):
            result = answer.result() if isinstance(answer, Future) else answer
            if result.proof is not None:
                yield self._take(wanted, listed, result.proof, records)
            else:
                self._note(wanted, listed, result, records)
        self._journal.write(records)
        records.clear()

    def _note(self, wanted: Wanted, listed: ObjectInfo, result: CompareResult, records: list[dict[str, Any]]) -> None:
        key = wanted.item.key
        self.findings.note(result.kind, f"{key} ({result.reason})" if result.reason else key)
        generation = wanted.item.generation if wanted.proof is None else wanted.proof.generation
        if result.rejected:
            records.append(encode_invalidated(key, generation, result.void, (listed.etag, listed.modified)))
        elif wanted.proof is not None and result.void:
            records.append(encode_invalidated(key, generation, result.void))
        if result.note is not None:
            records.append(encode_verification(result.note, planned(wanted.item, result.note)))

    def _take(
        self, wanted: Wanted, listed: ObjectInfo, proof: VerificationRecord, records: list[dict[str, Any]]
    ) -> ManifestRow:
        if proof is not wanted.proof:
            records.append(encode_verification(proof, planned(wanted.item, proof)))
        self.findings.proven += 1
        self.findings.bytes += proof.size
        sha256 = proof.object_sha256
        self.findings.weak += sha256 is None and (proof.sha256 is not None or proof.origin == PRESENT)
        self.findings.unhashed += sha256 is None and proof.sha256 is None and proof.origin != PRESENT
        return ManifestRow(
            path=wanted.item.path,
            key=proof.key,
            size=proof.size,
            mtime_ns=proof.mtime_ns,
            md5=proof.md5,
            sha256=sha256,
            etag=listed.etag,
            version_id=listed.version_id,
            checksum=proof.method,
            batch=wanted.item.batch,
            uploaded_at=listed.modified,
            verified_by=describe_verification(proof.method, proof.origin),
            server_checksum=proof.server_checksum,
            file_sha256=None if sha256 else proof.sha256,
            storage_class=listed.storage_class,
        )

    def _look(self, pairs: Sequence[tuple[Wanted, ObjectInfo]]) -> list[Look]:
        """Look at some files; those that must be read are read together, which is what fills the digests' lanes."""
        paths = [wanted.item.local for wanted, _ in pairs]
        statuses = self._stat(paths)
        reading: list[int] = []
        files: list[tuple[str, int]] = []
        known: dict[int, FileDigests | OSError] = {}
        for number, ((wanted, listed), status) in enumerate(zip(pairs, statuses)):
            if isinstance(status, OSError) or not self._must_read(wanted, listed, status):
                continue
            if kept := self._kept_digests(wanted, status):
                known[number] = kept
            else:
                reading.append(number)
                files.append((wanted.item.local, status.st_size))
        with self._lock:
            self.findings.reread += len(files)
        digests = known | dict(zip(reading, digest_files(files, self._deep.mark, self._root) if files else ()))
        return [Look(status, digests.get(number)) for number, status in enumerate(statuses)]

    def _kept_digests(self, wanted: Wanted, status: os.stat_result) -> FileDigests | None:
        """Return what a sign-off kept of a file, unless its bytes themselves are in question."""
        suspect = wanted.proof is not None and wanted.proof.suspect is not None
        if self._kept is None or self._root is None or suspect or self._samples(wanted):
            return None
        return self._kept.matching(self._root.name(wanted.item.local), status)

    def _stat(self, paths: Sequence[str]) -> Sequence[os.stat_result | OSError]:
        return stat_files(paths) if self._root is None else self._root.statuses(paths)

    def _asks_more(self, wanted: Wanted, listed: ObjectInfo) -> bool:
        """Tell whether the bucket is to be asked for more of an object than its listing says."""
        proof = wanted.proof
        if proof is None or not has_same_etag(proof, listed):
            return False
        if not is_same_object(proof, listed) or self._deep.takes(listed.key):
            return True
        return self._comparison.lacks(proof, found=proof.origin == PRESENT) is not None

    def _must_read(self, wanted: Wanted, listed: ObjectInfo, status: os.stat_result) -> bool:
        if not stat.S_ISREG(status.st_mode):
            return False
        proof = wanted.proof
        if proof is None or not has_same_etag(proof, listed):
            return True
        if not is_state(proof, FileState.of(status), is_copy=self._is_copy):
            return True
        if proof.suspect is not None or self._samples(wanted):
            return True
        # Whoever put an object there may have chosen it by all else: its bytes are compared by SHA-256 or not at all.
        return proof.sha256 is None and proof.origin == PRESENT and self._deep.takes(listed.key)

    def _samples(self, wanted: Wanted) -> bool:
        return self._files.takes(wanted.item.key, wanted.item.size)

    def _count_source(self, wanted: Wanted, look: Look) -> None:
        """Count what became of a file that was to be read: one that is gone says nothing for its source."""
        if not self._samples(wanted):
            return
        fault = look.status if isinstance(look.status, OSError) else look.digests
        self.findings.source_read += isinstance(look.digests, FileDigests)
        if isinstance(fault, OSError) and fault.errno in GONE:
            self.findings.note("source_gone", wanted.item.path)

    def _ask(self, wanted: Wanted, listed: ObjectInfo, look: Look) -> CompareResult:
        """Compare one object; what the bucket does not give of it is a finding, unless it gives nothing at all."""
        try:
            return self._compare(wanted, listed, look.status, look.digests)
        except StoreError as error:
            if error.code in ("404", "NoSuchKey"):
                return CompareResult(None, "missing", void="lost")  # gone since the listing
            if error.failure is FailureKind.STOP:
                raise
            if error.code == ARCHIVED:
                return CompareResult(None, "unreadable", ARCHIVED_REASON)
            reason = str(error)
        self._store.page(listed.key)  # if it is the bucket or the way to it, that ends the run here
        return CompareResult(None, "unreadable", f"unreadable there: {reason}")

    def _compare(
        self,
        wanted: Wanted,
        listed: ObjectInfo,
        status: os.stat_result | OSError,
        digests: FileDigests | OSError | None,
    ) -> CompareResult:
        """Return the proof that holds now, or why there is none; ``digests`` where the file was to be read."""
        item, proof = wanted.item, wanted.proof
        agrees = proof is not None and has_same_etag(proof, listed)
        fault = status if isinstance(status, OSError) else digests if isinstance(digests, OSError) else None
        if fault is None and not isinstance(status, OSError) and not stat.S_ISREG(status.st_mode):
            fault = not_regular(status.st_mode)
        if fault is not None:
            if fault.errno in GONE:
                return self._gone(wanted, listed, agrees)
            return self._unreadable(wanted, fault.strerror or str(fault), agrees)
        assert not isinstance(status, OSError)
        assert not isinstance(digests, OSError)
        if digests is None:
            assert proof is not None
            return self._confirm(proof, proof, listed)
        if proof is not None and agrees and digests.steady:
            known = is_state(proof, digests.after)
            if is_same_content(proof, digests):
                same = known and proof.ctime_ns is not None and proof.suspect is None
                newer = proof if same else in_state(proof, digests.after)
                if proof.sha256 is None:
                    newer = replace(newer, sha256=digests.sha256)
                return self._confirm(proof, newer, listed)
            if known:
                return _contradicted(proof, digests.sha256)
        if item.rejects(listed):
            return DIFFERS
        level = self._deep.level(item.key, self._comparison.level)
        try:
            match = self._comparison.match(item.local, listed, digests, level, found=True)  # may read it once more
        except OSError as error:
            if error.errno in GONE:
                return self._gone(wanted, listed, agrees)
            return self._unreadable(wanted, error.strerror or str(error), agrees)
        if match is None:
            steady = FileState.of(status) == digests.after
            if steady and listed.etag == digests.etag:
                return REJECTED
            return DIFFERS if steady else CompareResult(None, "differing", void="changed")
        self._deep.count(match)
        generation = item.generation if proof is None else proof.generation + 1
        return CompareResult(make_record(replace(item, generation=generation), listed, digests, match))

    def _confirm(self, old: VerificationRecord, proof: VerificationRecord, listed: ObjectInfo) -> CompareResult:
        """Return what holds of an object that has the ETag of its record, while the file is what was read.

        ``proof`` is the record, or a newer one of the same content. An object
        of another time was put there by others since, or again by us.
        """
        if not is_same_object(proof, listed):
            # Its ETag says something of the content only where it was compared, or is the MD5.
            method = proof.method if proof.method == "etag" else "size"
            proof = replace(proof, origin=PRESENT, method=method, server_checksum=None, modified=listed.modified)
        proof = by_etag(proof)
        level = self._comparison.lacks(proof, found=proof.origin == PRESENT)
        level = self._deep.level(listed.key, level)
        if level is not None:
            try:
                match = self._comparison.confirm(proof, listed, level)
            except StoreError as error:
                if error.code != ARCHIVED or not self._counts_archived(proof):
                    raise
                return CompareResult(proof if proof is old else replace(proof, generation=old.generation + 1))
            self._deep.count(match)
            if match is None:
                return REJECTED
            if match.sha256 and not proof.sha256:
                proof = replace(proof, sha256=match.sha256)
            if match.method != proof.method:
                checksum = match.server_checksum or proof.server_checksum
                proof = replace(
                    proof,
                    method=match.method,
                    server_checksum=checksum or (proof.method if ":" in proof.method else None),
                )
        return CompareResult(proof if proof is old else replace(proof, generation=old.generation + 1))

    def _counts_archived(self, proof: VerificationRecord) -> bool:
        """Count an archived object that its record and the listing speak for; False where nothing but its size does."""
        if proof.method == "size":
            return False
        with self._lock:
            self.findings.archived += 1
        return True

    def _gone(self, wanted: Wanted, listed: ObjectInfo, agrees: bool) -> CompareResult:
        """Judge without the file: sources may be deleted after delivery, the journal's digests still speak for them."""
        if wanted.proof is None or not agrees:
            with self._lock:
                self.findings.sourceless += 1
            return CompareResult(None, "differing", NO_SOURCE, void="differs")
        with self._lock:
            self.findings.gone_here += 1
        return self._confirm(wanted.proof, wanted.proof, listed)

    @staticmethod
    def _unreadable(wanted: Wanted, reason: str, agrees: bool) -> CompareResult:
        """Return that the file cannot be compared; an old proof with which the bucket agrees is not taken back."""
        reason = f"unreadable here: {reason}"
        if wanted.proof is None or agrees:
            return CompareResult(None, "unreadable", reason)
        return CompareResult(None, "differing", reason, "unreadable")


def _contradicted(proof: VerificationRecord, sha256: str | None) -> CompareResult:
    """Return the finding of a file whose bytes are others in the very state in which it was read."""
    reason = "the file here was read again and has other bytes, though its size, times and inode are as they were"
    note = None if proof.suspect == sha256 else replace(proof, suspect=sha256, generation=proof.generation + 1)
    return CompareResult(None, "contradicted", reason, note=note)
