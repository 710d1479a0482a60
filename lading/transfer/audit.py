"""Compare what a plan wants with what the bucket lists, object by object in key order.

Input: an inventory, the ledger, the bucket's listing. Output: manifest rows,
records for the journal, findings.
Invariant: a row says what the bucket lists *now*; digests come from the
journal only while size, mtime and ETag still agree with it, else the file is
read again. Memory: rows are sorted in pieces on disk.
"""

import errno
import hashlib
import heapq
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lading.formats.journal import Proof, encode_proof, encode_void
from lading.formats.manifest import Row
from lading.progress import Progress, format_count
from lading.times import mtime_of
from lading.transfer.body import Reader
from lading.transfer.checksum import Stamp, digest_file
from lading.transfer.engine import Failure
from lading.transfer.inventory import Inventory
from lading.transfer.ledger import Journal, Ledger, hash_keys
from lading.transfer.listed import Listed, StoreError
from lading.transfer.proof import Comparison, Item, Level, make_proof, planned
from lading.transfer.store import Store

PIECE = 200_000  # objects sorted in memory at once
GROUP = 1000
SHOWN = 20
GONE = (errno.ENOENT, errno.ENOTDIR)  # ENOTDIR: a directory above is a file by now


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object of the plan and what the journals know of it."""

    item: Item
    proof: Proof | None


@dataclass
class Findings:
    """What the audit found; lists hold the first ``SHOWN`` names."""

    proven: int = 0
    bytes: int = 0
    reread: int = 0
    gone_here: int = 0
    missing: int = 0
    differing: int = 0
    unreadable: int = 0
    unsent: int = 0
    extra: int = 0
    names: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, text: str) -> None:
        """Count one finding and keep its name if it is among the first."""
        setattr(self, kind, getattr(self, kind) + 1)
        kept = self.names.setdefault(kind, [])
        if len(kept) < SHOWN:
            kept.append(text)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison came to: the proof that holds now, or none and which finding that is.

    reason  for people, beside the key
    void    why the old proof holds no more, for the journal; empty when nothing speaks against it
    """

    proof: Proof | None
    kind: str = ""
    reason: str = ""
    void: str = ""


DIFFERS = Verdict(None, "differing", void="differs")


def key_order(key: str) -> bytes:
    """Return what S3 sorts keys by: their UTF-8 bytes."""
    return key.encode()


def sorted_wanted(inventory: Inventory, ledger: Ledger, scratch: Path) -> Iterator[Wanted]:
    """Yield every object of the plan in key order, with its proof; memory bounded by ``PIECE``."""
    pieces: list[Path] = []
    held: list[Wanted] = []

    def spill() -> None:
        held.sort(key=lambda wanted: key_order(wanted.item.key))
        path = scratch / f"{len(pieces)}.jsonl"
        with path.open("w", encoding="ascii") as stream:
            stream.writelines(json.dumps([asdict(w.item), w.proof and asdict(w.proof)]) + "\n" for w in held)
        pieces.append(path)
        held.clear()

    for number in range(len(inventory.batches)):
        items = [item for item, _ in inventory.items(number, ledger)]
        keys = [item.key for item in items]
        for item, proof in zip(items, ledger.proofs(keys, ledger.find(hash_keys(keys)))):
            held.append(Wanted(item, proof))
            if len(held) >= PIECE:
                spill()
    if not pieces:
        yield from sorted(held, key=lambda wanted: key_order(wanted.item.key))
        return
    spill()
    yield from heapq.merge(*map(_read_piece, pieces), key=lambda wanted: key_order(wanted.item.key))


def _read_piece(path: Path) -> Iterator[Wanted]:
    with path.open(encoding="ascii") as stream:
        for line in stream:
            item, proof = json.loads(line)
            yield Wanted(Item(**item), Proof(**proof) if proof else None)


def merge_join(wanted: Iterable[Wanted], listed: Iterable[Listed]) -> Iterator[tuple[Wanted | None, Listed | None]]:
    """Yield what is wanted beside what is listed, both in key order; either may lack."""
    left, right = iter(wanted), iter(listed)
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        if b is None or (a is not None and key_order(a.item.key) < key_order(b.key)):
            yield a, None
            a = next(left, None)
        elif a is None or key_order(b.key) < key_order(a.item.key):
            yield None, b
            b = next(right, None)
        else:
            yield a, b
            a, b = next(left, None), next(right, None)


class Audit:
    """Compares wanted with listed objects; makes the manifest's rows."""

    def __init__(self, store: Store, comparison: Comparison, journal: Journal, deep: "Sample") -> None:
        self.findings = Findings()
        self._store, self._journal, self._deep, self._comparison = store, journal, deep, comparison
        self._pool = ThreadPoolExecutor(max(8, len(os.sched_getaffinity(0))), thread_name_prefix="audit")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def rows(self, pairs: Iterable[tuple[Wanted | None, Listed | None]], progress: Progress) -> Iterator[Row]:
        """Yield a row for each object that is proven now, in key order."""
        group: list[tuple[Wanted, Listed]] = []
        records: list[dict[str, Any]] = []
        for wanted, listed in pairs:
            if wanted is None:
                if listed is not None and not listed.key.rpartition("/")[2].startswith(".lading-canary-"):
                    self.findings.note("extra", listed.key)
            elif listed is None:
                self._lack(wanted, records)
            else:
                group.append((wanted, listed))
            if len(group) >= GROUP:
                yield from self._judge(group, records)
                group = []
                if progress.due():
                    progress.show(f"{format_count(self.findings.proven)} objects proven")
        yield from self._judge(group, records)
        self._journal.write(records)

    def _lack(self, wanted: Wanted, records: list[dict[str, Any]]) -> None:
        if wanted.proof is None:
            self.findings.note("unsent", wanted.item.key)
        else:
            self.findings.note("missing", wanted.item.key)
            records.append(encode_void(wanted.item.key, wanted.proof.generation, "lost"))
        if len(records) >= GROUP:  # a bucket that lost everything never fills a group of objects to compare
            self._journal.write(records)
            records.clear()

    def _judge(self, group: Sequence[tuple[Wanted, Listed]], records: list[dict[str, Any]]) -> Iterator[Row]:
        """Yield the rows of a group, in order; what needs the file or its bytes runs in threads."""
        work: list[Future[Verdict]] = [self._pool.submit(self._ask, wanted, listed) for wanted, listed in group]
        for (wanted, listed), future in zip(group, work):
            verdict = future.result()
            proof = verdict.proof
            if proof is None:
                key = wanted.item.key
                self.findings.note(verdict.kind, f"{key} ({verdict.reason})" if verdict.reason else key)
                if wanted.proof is not None and verdict.void:
                    records.append(encode_void(key, wanted.proof.generation, verdict.void))
                continue
            if proof is not wanted.proof:
                records.append(encode_proof(proof, planned(wanted.item, proof)))
            self.findings.proven += 1
            self.findings.bytes += proof.size
            yield Row(
                path=wanted.item.path,
                key=proof.key,
                size=proof.size,
                mtime_ns=proof.mtime_ns,
                md5=proof.md5,
                sha256=proof.sha256,
                etag=listed.etag,
                version_id=listed.version_id,
                checksum=proof.method,
                batch=wanted.item.batch,
                uploaded_at=listed.modified,
            )
        self._journal.write(records)
        records.clear()

    def _ask(self, wanted: Wanted, listed: Listed) -> Verdict:
        """Compare one object; what the bucket does not give of it is a finding, unless it gives nothing at all."""
        try:
            return self._compare(wanted, listed)
        except StoreError as error:
            if error.code in ("404", "NoSuchKey"):
                return Verdict(None, "missing", void="lost")  # gone since the listing
            if error.failure is Failure.STOP:
                raise
            reason = str(error)
        self._store.page(listed.key)  # if it is the bucket or the way to it, that ends the run here
        return Verdict(None, "unreadable", f"unreadable there: {reason}")

    def _compare(self, wanted: Wanted, listed: Listed) -> Verdict:
        """Return the proof that holds now, or why there is none."""
        item, proof = wanted.item, wanted.proof
        agrees = proof is not None and (proof.size, proof.etag) == (listed.size, listed.etag)
        try:
            status: os.stat_result | None = os.stat(os.fsencode(item.local))
        except OSError as error:
            if error.errno not in GONE:
                return self._unreadable(wanted, error.strerror or str(error), agrees)
            status = None
        if status is None:
            return self._gone(wanted, listed, agrees)
        if proof is not None and agrees and (status.st_size, mtime_of(status)) == (proof.size, proof.mtime_ns):
            return self._deep.check(proof, listed)
        self.findings.reread += 1
        level = self._deep.level(item.key, self._comparison.level)
        try:
            digests = digest_file(item.local, stop=self._deep.mark)
            method = self._comparison.match(item.local, listed, digests, level, found=True)  # may read it once more
        except OSError as error:
            if error.errno in GONE:
                return self._gone(wanted, listed, agrees)
            return self._unreadable(wanted, error.strerror or str(error), agrees)
        if method is None:
            steady = Stamp.of(status) == digests.after
            return DIFFERS if steady else Verdict(None, "differing", void="changed")
        generation = item.generation if proof is None else proof.generation + 1
        return Verdict(make_proof(replace(item, generation=generation), listed, digests, method))

    def _gone(self, wanted: Wanted, listed: Listed, agrees: bool) -> Verdict:
        """Judge without the file: sources may be deleted after delivery, the journal's digests still speak for them."""
        if wanted.proof is None or not agrees:
            return DIFFERS
        self.findings.gone_here += 1
        return self._deep.check(wanted.proof, listed)

    @staticmethod
    def _unreadable(wanted: Wanted, reason: str, agrees: bool) -> Verdict:
        """Return that the file cannot be compared; an old proof with which the bucket agrees is not taken back."""
        reason = f"unreadable here: {reason}"
        if wanted.proof is None or agrees:
            return Verdict(None, "unreadable", reason)
        return Verdict(None, "differing", reason, "unreadable")


class Sample:
    """Which objects are downloaded and compared byte for byte: none, about ``count`` of ``total``, or all."""

    def __init__(self, reader: Reader, total: int, count: int, full: bool) -> None:
        self._reader = reader
        share = 1.0 if full else min(1.0, count / total) if total else 0.0
        self._bound = round(share * 2**64)
        self._salt = secrets.token_bytes(16)  # another sample each time
        self.downloaded = 0

    @property
    def mark(self) -> bytearray:
        """What is set when the run is being interrupted (``lading.transfer.checksum``)."""
        return self._reader.mark

    def takes(self, key: str) -> bool:
        """Tell whether an object is in the sample."""
        if not self._bound:
            return False
        mark = hashlib.blake2b(key.encode(), digest_size=8, salt=self._salt).digest()
        return int.from_bytes(mark, "big") < self._bound

    def level(self, key: str, usual: Level) -> Level:
        """Return the level for a fresh comparison of an object."""
        return Level.DOWNLOAD if self.takes(key) else usual

    def check(self, proof: Proof, listed: Listed) -> Verdict:
        """Return the proof when the object is not in the sample, or its bytes have the proof's digest."""
        if not self.takes(listed.key):
            return Verdict(proof)
        sha256, size = hashlib.sha256(), 0
        for block in self._reader.blocks(listed.key, listed.size):
            sha256.update(block)
            size += len(block)
        self.downloaded += 1
        return Verdict(proof) if size == proof.size and sha256.hexdigest() == proof.sha256 else DIFFERS


def listing(store: Store, roots: Sequence[str]) -> Iterator[Listed]:
    """Yield the bucket's objects below each of the prefixes, in key order."""
    versions = store.keeps_versions()
    for prefix in roots:
        yield from store.list_versions(prefix) if versions else store.list(prefix)
