"""The loop that ships and proves, with an engine and a bucket in this process: what it does when things go wrong."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from lading.checksums.digest import FileDigests, digest_file
from lading.checksums.digest_prefetch import DigestPrefetch
from lading.core.atomic import read_log
from lading.journal.journal_writer import JournalWriter
from lading.journal.records import encode_header
from lading.objectstore.capacity import Capacity
from lading.objectstore.object_info import ObjectHead, ObjectInfo, StoreError
from lading.objectstore.target import FailureKind
from lading.plan.planned_object import PlannedObject
from lading.upload.cache_room import CacheRoom
from lading.upload.engines.base import TransferOutcome, UploadTask
from lading.upload.pipeline import UploadPipeline
from lading.upload.prepare_stage import cut_by_bytes
from lading.upload.run_state import UploadCounters
from lading.upload.send_stage import EngineSet
from lading.verification.compare import CompareLevel, Comparison

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

HEADER = encode_header("w", "s3://bucket/", None, "/data", "2026-01-01T00:00:00Z")
SLOW = StoreError(FailureKind.TRANSIENT, "the bucket is slow to answer", "SlowDown")


@dataclass
class Bucket:
    """Holds what was stored, and answers as a store does; ``before`` is called ahead of each listing."""

    held: dict[str, ObjectInfo] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None
    capacity: Capacity = field(default_factory=Capacity)

    def put(self, key: str, content: bytes, etag: str = "") -> None:
        digest = etag or hashlib.md5(content, usedforsecurity=False).hexdigest()
        self.held[key] = ObjectInfo(key, len(content), digest, "2026-01-01T00:00:00Z")

    def find(self, keys: Iterable[str], *, doubt: int = 0) -> dict[str, ObjectInfo]:
        self.before()
        return {key: self.held[key] for key in keys if key in self.held}

    def page(self, prefix: str) -> None:
        self.before()

    def blocks(self, key: str, version_id: str | None = None, start: int = 0) -> Iterator[bytes]:
        yield b"?" * (self.held[key].size - start)  # it is asked for the bytes where the ETag speaks of others

    def head(self, key: str) -> ObjectHead:
        return ObjectHead(self.held[key].size, self.held[key].etag, None, None, None)


@dataclass
class Carrier:
    """Carries files into a bucket as soon as they are submitted."""

    bucket: Bucket
    name: str = "carrier"
    atomic_create: bool = True
    window: int = 100
    etag: str = ""  # what the bucket shows instead of the MD5
    submitted: list[str] = field(default_factory=list)
    moved: float | None = 0.0
    _done: list[TransferOutcome] = field(default_factory=list)

    @property
    def outstanding(self) -> int:
        return len(self._done)

    def accepts(self, task: UploadTask) -> str | None:
        return None

    def submit(self, task: UploadTask) -> None:
        self.submitted.append(task.key)
        try:
            self.bucket.put(task.key, Path(task.path).read_bytes(), self.etag)
            self._done.append(TransferOutcome(task))
        except OSError as error:
            self._done.append(TransferOutcome(task, FailureKind.OBJECT, str(error)))

    def poll(self, timeout: float) -> list[TransferOutcome]:
        done, self._done = self._done, []
        return done

    def drain(self) -> None: ...

    def close(self) -> None:
        self._done.clear()


class Dock:
    """A shipment of files below a directory."""

    def __init__(self, directory: Path, reader: DigestPrefetch, **more: Any) -> None:
        self.directory, self.bucket = directory, Bucket()
        self.carrier = Carrier(self.bucket)
        self.journal = JournalWriter(directory, "w", HEADER)
        store = cast("ObjectStore", self.bucket)
        comparison = Comparison(store, CompareLevel.ETAG)
        crew = EngineSet(self.carrier, Carrier(self.bucket))
        self.shipment = UploadPipeline(crew, store, comparison, self.journal, reader, **more)

    def item(self, name: str, content: bytes) -> PlannedObject:
        path = self.directory / name
        path.write_bytes(content)
        return PlannedObject(name, str(path), name, len(content), None, "b1")

    def run(self, *groups: list[PlannedObject], **more: Any) -> UploadCounters:
        return self.shipment.run(iter(groups), **more)

    def records(self, kind: str) -> list[Mapping[str, Any]]:
        return [record for record in read_log(self.journal.path) if record and record["kind"] == kind]


@pytest.fixture
def reader() -> Iterator[DigestPrefetch]:
    with DigestPrefetch() as reader:
        yield reader


def test_what_is_sent_is_proven_and_what_is_there_adopted(tmp_path: Path, reader: DigestPrefetch) -> None:
    dock = Dock(tmp_path, reader)
    items = [dock.item(name, name.encode()) for name in "abc"]
    dock.bucket.put("b", b"b")
    counters = dock.run(items)
    assert (counters.sent, counters.already_present, counters.proven) == (2, 1, 3)
    assert sorted(record["key"] for record in dock.records("done")) == ["a", "b", "c"]


def test_hashing_for_long_takes_nothing_of_the_patience(
    tmp_path: Path, reader: DigestPrefetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One slow answer after it is asked again, and halts no run."""
    monkeypatch.setattr("lading.upload.run_state.BACKOFF_SECONDS", 0.05)
    dock = Dock(tmp_path, reader, patience=0.4)
    failures = [SLOW]

    def hash_then_fail() -> None:
        if failures:
            time.sleep(0.6)
            raise failures.pop()

    dock.bucket.before = hash_then_fail
    assert dock.run([dock.item("a", b"a")]).proven == 1


def test_patience_ends_when_the_bucket_stays_away(
    tmp_path: Path, reader: DigestPrefetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lading.upload.run_state.BACKOFF_SECONDS", 0.05)
    dock = Dock(tmp_path, reader, patience=0.4)

    def fail() -> None:
        raise SLOW

    dock.bucket.before = fail
    began = time.monotonic()
    with pytest.raises(StoreError, match="slow to answer"):
        dock.run([dock.item("a", b"a")])
    assert 0.3 < time.monotonic() - began < 20


@pytest.mark.parametrize("there", [True, False])
def test_a_file_that_goes_while_it_is_compared_costs_no_more_than_itself(
    tmp_path: Path, reader: DigestPrefetch, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Its object has an ETag of parts, so that the file is read again by other part sizes."""
    dock = Dock(tmp_path, reader)
    item, parts = dock.item("goes", b"12"), "0" * 32 + "-2"
    if there:
        dock.bucket.put("goes", b"12", parts)
    else:
        dock.carrier.etag = parts

    def remove_first(path: str, part: int, *_: object) -> FileDigests:
        Path(path).unlink()
        return digest_file(path, part)

    monkeypatch.setattr("lading.verification.compare.digest_file", remove_first)
    counters = dock.run([item])
    assert (counters.failed, counters.proven) == (1, 0)
    assert [record["key"] for record in dock.records("failed")] == ["goes"]
    assert list(counters.reasons) == [
        "the local file is gone; crawl and plan again: rm find.json; make find.json batch.json"
    ]


def test_huge_files_are_adopted_some_at_a_time(
    tmp_path: Path, reader: DigestPrefetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends while it hashes what is there keeps what it has adopted till then."""
    monkeypatch.setattr("lading.upload.prepare_stage.GROUP_BYTES", 10, raising=False)
    dock = Dock(tmp_path, reader)
    items = [dock.item(name, name.encode() * 6) for name in "abcd"]
    for item in items:
        dock.bucket.put(item.key, item.key.encode() * 6)
    asked: list[list[str]] = []
    kept: list[int] = []

    def find(keys: Iterable[str], *, doubt: int = 0) -> dict[str, ObjectInfo]:
        asked.append(wanted := list(keys))
        deadline = time.monotonic() + 5
        while "d" in wanted and not dock.records("done") and time.monotonic() < deadline:
            time.sleep(0.01)
        kept.append(len(dock.records("done")))
        return {key: dock.bucket.held[key] for key in wanted}

    monkeypatch.setattr(dock.bucket, "find", find)
    assert dock.run(items).already_present == 4
    assert sorted(asked) == [["a"], ["b"], ["c"], ["d"]]
    assert kept[-1] > 0


def test_pieces_hold_so_many_bytes_or_one_item() -> None:
    items = [PlannedObject(name, name, name, size, None, "b1") for name, size in zip("abcde", (11, 5, 5, 1, 30))]
    pieces = [[item.key for item in piece] for piece in cut_by_bytes(items, 10)]
    assert pieces == [["a"], ["b", "c"], ["d"], ["e"]]
    assert list(cut_by_bytes([], 10)) == []


def halt_after(dock: Dock, seconds: float) -> Callable[[], float]:
    """Stop a shipment in a while; returns the grace, which is over at once."""
    threading.Timer(seconds, dock.shipment.stop, ["interrupted"]).start()
    return lambda: 0.0 if dock.shipment.stopping else float("inf")


def test_a_stop_does_not_wait_for_what_is_only_hashed(
    tmp_path: Path, reader: DigestPrefetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose object may be there already, and others behind it: nothing of it is a failure."""
    monkeypatch.setattr("lading.upload.prepare_stage.GROUP_BYTES", 10)
    dock = Dock(tmp_path, reader)
    items = []
    for number in range(20):
        item = dock.item(f"huge{number}", b"")
        with open(item.local, "r+b") as stream:
            stream.truncate(1 << 40)  # hashed for a quarter of an hour
        items.append(replace(item, size=1 << 40))
        dock.bucket.held[item.key] = ObjectInfo(item.key, 1 << 40, "0" * 32, "2026-01-01T00:00:00Z")
    began = time.monotonic()
    counters = dock.run(items, grace=halt_after(dock, 0.5))
    assert time.monotonic() - began < 60
    assert (counters.failed, counters.already_present, counters.sent) == (0, 0, 0)
    assert dock.carrier.submitted == []


def test_a_stop_ends_the_pause_between_two_questions(tmp_path: Path, reader: DigestPrefetch) -> None:
    dock = Dock(tmp_path, reader)
    dock.shipment._state.pause = lambda failures: 60.0  # type: ignore[method-assign]
    failures = [SLOW]

    def fail_once() -> None:
        if failures:
            raise failures.pop()

    dock.bucket.before = fail_once
    began = time.monotonic()
    dock.run([dock.item("a", b"a")], grace=halt_after(dock, 0.3))
    assert time.monotonic() - began < 30
    assert not failures


@pytest.mark.parametrize("raised", [KeyError("ETag"), ValueError("no number"), MemoryError()])
@pytest.mark.parametrize("question", [1, 2])
def test_what_a_worker_raises_is_the_failure_of_its_items(
    tmp_path: Path, reader: DigestPrefetch, raised: Exception, question: int
) -> None:
    """In the preparation, which asks the bucket first, and in the comparison, which asks it again."""
    dock = Dock(tmp_path, reader)
    asked: list[int] = []

    def fail() -> None:
        asked.append(1)
        if len(asked) == question:
            raise raised

    dock.bucket.before = fail
    counters = dock.run([dock.item("a", b"a"), dock.item("b", b"b")])
    assert (counters.failed, counters.proven) == (2, 0)
    assert [reason.split(":")[0] for reason in counters.reasons] == [type(raised).__name__]
    assert sorted(record["key"] for record in dock.records("failed")) == ["a", "b"]


def test_a_probe_that_raises_ends_the_run(
    tmp_path: Path, reader: DigestPrefetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock = Dock(tmp_path, reader)
    monkeypatch.setattr(
        dock.carrier, "submit", lambda task: dock.carrier._done.append(TransferOutcome(task, FailureKind.STOP, "no"))
    )
    monkeypatch.setattr("lading.upload.send_stage.BucketProbe.run", lambda canary: {}["ETag"])
    with pytest.raises(StoreError, match="KeyError"):
        dock.run([dock.item("a", b"a")])


@dataclass
class Mute(Carrier):
    """Takes tasks and never tells what became of them."""

    held: list[UploadTask] = field(default_factory=list)
    closed: int = 0

    @property
    def outstanding(self) -> int:
        return len(self.held)

    def submit(self, task: UploadTask) -> None:
        self.submitted.append(task.key)
        self.held.append(task)

    def poll(self, timeout: float) -> list[TransferOutcome]:
        time.sleep(timeout)
        return []

    def close(self) -> None:
        self.closed += 1
        self.held.clear()


@pytest.mark.parametrize("place", ["first", "second", "huge"])
def test_every_engine_is_watched_for_silence(
    tmp_path: Path, reader: DigestPrefetch, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr("lading.upload.send_stage.STALL_SECONDS", 0.3)
    monkeypatch.setattr("lading.upload.run_state.BACKOFF_SECONDS", 0.01)
    dock = Dock(tmp_path, reader)
    mute = Mute(dock.bucket)
    engines: dict[str, Any] = {"first": mute, "second": mute if place == "second" else Carrier(dock.bucket)}
    if place == "second":
        engines["first"] = Carrier(dock.bucket)
        monkeypatch.setattr(engines["first"], "accepts", lambda task: "not by me")
    crew = EngineSet(**engines, huge=mute if place == "huge" else None, huge_bytes=1 if place == "huge" else 10**12)
    dock.shipment._send._engines, dock.shipment._send._heard = crew, [time.monotonic()] * 3
    counters = dock.run([dock.item("a", b"a")])
    assert mute.closed >= 2
    if place == "first":
        assert counters.proven == 1, "the second client sends what the first one only takes"
    else:
        assert (counters.failed, list(counters.reasons)) == (1, ["no data moved for 0 s"])


def test_large_files_wait_for_room_in_the_cache(
    tmp_path: Path, reader: DigestPrefetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lading.upload.cache_room.LARGE_BYTES", 100)
    dock = Dock(tmp_path, reader)
    dock.shipment._send._cache = CacheRoom(250)
    submit, held = dock.carrier.submit, []

    def count(task: UploadTask) -> None:
        submit(task)
        held.append(dock.carrier.outstanding)

    monkeypatch.setattr(dock.carrier, "submit", count)
    counters = dock.run([dock.item(f"{n}", b"x" * (100 + n)) for n in range(9)])
    assert counters.proven == 9
    assert max(held) <= 2


@pytest.mark.parametrize("where", ["prepare", "compare"])
def test_a_second_signal_leaves_behind_what_hangs(tmp_path: Path, reader: DigestPrefetch, where: str) -> None:
    dock = Dock(tmp_path, reader)
    asked = threading.Event()

    def hang() -> None:
        if where == "prepare" or dock.carrier.submitted:
            asked.set()
            threading.Event().wait(100)

    dock.bucket.before = hang
    began: list[float] = []

    def grace() -> float:
        if asked.is_set():
            began.append(time.monotonic())
            dock.shipment.stop("interrupted")
            return float("-inf")
        return float("inf")

    def groups() -> Iterator[list[PlannedObject]]:
        yield [dock.item("a", b"a")]
        while not asked.is_set():
            yield []
        grace()

    dock.shipment.run(groups(), grace)
    assert time.monotonic() - began[0] < 5
    assert dock.records("failed") == []
