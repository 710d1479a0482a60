"""Every engine through the conformance list of ``lading/upload/engines/base.py``, against real servers."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import boto3
import pytest

from lading.objectstore.client import ObjectStore
from lading.objectstore.target import FailureKind, Target
from lading.upload.engines.base import Engine, TransferOutcome, UploadTask, send
from lading.upload.engines.boto import BotoEngine
from lading.upload.engines.bundle import PREFIX
from lading.upload.engines.crt import CrtEngine
from lading.upload.engines.multipart import MultipartEngine
from lading.upload.engines.obstore import ObstoreEngine
from lading.upload.engines.s5cmd import S5cmdEngine
from tests.conftest import mostly_long
from tests.servers import faults, moto

MIB = 1 << 20


ENGINES: dict[str, Callable[[Target], Engine]] = {
    "obstore": ObstoreEngine,
    "boto3": lambda target: BotoEngine(target, ObjectStore(target)),
    "multipart": lambda target: MultipartEngine(target, ObjectStore(target)),
    "s5cmd": S5cmdEngine,
    "crt": CrtEngine,
}


# What goes through boto3 takes every name, in threads of this process.
ANY_NAME = ("boto3", "multipart")


class World:
    """One server, one bucket, one directory of files."""

    def __init__(self, server, bucket: str, directory: Path) -> None:
        self.server = server
        self.bucket = bucket
        self.directory = directory
        server.make_bucket(bucket)
        self.s3 = boto3.session.Session().client("s3", endpoint_url=server.endpoint, region_name="us-east-1")

    def target(self, **settings) -> Target:
        return Target(
            self.bucket, settings.pop("endpoint", self.server.endpoint), settings.pop("workers", 4), **settings
        )

    def file(
        self, name: bytes, content: bytes, key: str | None = None, content_type: str = "text/x-test"
    ) -> UploadTask:
        path = os.fsencode(self.directory) + b"/" + name
        Path(os.fsdecode(path)).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(content)
        status = os.stat(path)
        shown = os.fsdecode(path)
        return UploadTask(shown, key or os.fsdecode(name), status.st_size, status.st_mtime_ns, content_type)

    def body(self, key: str) -> bytes:
        return self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def keys(self) -> set[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {item["Key"] for page in pages for item in page.get("Contents", [])}


@pytest.fixture
def world(s3, bucket: str, tmp_path: Path) -> World:
    return World(s3, bucket, tmp_path)


@pytest.fixture(params=mostly_long(ENGINES, "obstore", "boto3", "multipart", "s5cmd"))
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[Target], Engine]]:
    engines: list[Engine] = []

    def build(target: Target) -> Engine:
        engines.append(ENGINES[request.param](target))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


@contextmanager
def server_with_parts(server, kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator:  # type: ignore[no-untyped-def, type-arg]
    """Run another server for crt, which reads the very words of S3 alone: the small one begins uploads by others."""
    if kind != "crt":
        yield server
        return
    for name, value in moto.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with moto.serve() as there:
        yield there


@pytest.fixture
def parts_world(
    make, world: World, bucket: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A server where the engine can send in parts."""
    with server_with_parts(world.server, request.node.callspec.params["make"], monkeypatch) as server:
        yield world if server is world.server else World(server, bucket, tmp_path)


def children() -> set[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    alive = set()
    for pid in listed:
        try:
            if ") Z " not in Path(f"/proc/{pid}/stat").read_text():
                alive.add(int(pid))
        except FileNotFoundError:
            continue
    return alive


def drain(engine: Engine, count: int, seconds: float = 60) -> list[TransferOutcome]:
    found: list[TransferOutcome] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += engine.poll(1.0)
    return found


def test_carries_bytes_and_type(make, world: World) -> None:
    tasks = [world.file(b"d/%d" % n, os.urandom(n * 1000)) for n in range(20)]
    tasks.append(world.file(b"empty", b""))
    outcomes = list(send(make(world.target()), tasks))
    assert [o.message for o in outcomes if not o.ok] == []
    assert {o.task.key for o in outcomes} == {t.key for t in tasks}
    assert len(outcomes) == len(tasks)
    for task in tasks:
        assert world.body(task.key) == Path(task.path).read_bytes()
    head = world.s3.head_object(Bucket=world.bucket, Key="d/3")
    assert head["ContentType"] == "text/x-test"


def test_submit_counts_and_poll_returns_each_once(make, world: World) -> None:
    engine = make(world.target())
    tasks = [world.file(b"n%d" % n, b"x" * n) for n in range(engine.window)]
    for number, task in enumerate(tasks, 1):
        engine.submit(task)
        assert engine.outstanding == number
    seen: list[TransferOutcome] = []
    while engine.outstanding:
        before = engine.outstanding
        found = engine.poll(5)
        assert engine.outstanding == before - len(found)
        seen += found
    assert sorted(o.task.key for o in seen) == sorted(t.key for t in tasks)
    start = time.monotonic()
    assert engine.poll(0.2) == []
    assert time.monotonic() - start < 5


def test_failures_are_outcomes_and_the_engine_goes_on(make, world: World) -> None:
    gone = world.file(b"gone", b"1")
    os.unlink(gone.path)
    folder = UploadTask(str(world.directory), "folder", 1, 0)
    good = world.file(b"good", b"fine")
    outcomes = {o.task.key: o for o in send(make(world.target()), [gone, folder, good])}
    assert outcomes["gone"].failure is FailureKind.OBJECT
    assert outcomes["gone"].message
    assert outcomes["folder"].failure is FailureKind.OBJECT
    assert outcomes["good"].ok
    assert world.keys() == {"good"}


def test_many_small_files_some_gone(make, world: World) -> None:
    """Mixed types and depths, empty ones, some vanished: each comes out once, the others arrive."""
    tasks = []
    for n in range(80):
        folder = b"m/" * (n % 3)
        tasks.append(world.file(folder + b"%02d" % n, b"x" * (n % 5), content_type=f"text/x-{n % 2}"))
    gone = {task.key for task in tasks[::9]}
    for task in tasks[::9]:
        os.unlink(task.path)
    outcomes = list(send(make(world.target(workers=16)), tasks))
    assert sorted(o.task.key for o in outcomes) == sorted(t.key for t in tasks)
    assert {o.task.key for o in outcomes if not o.ok} == gone
    assert {o.failure for o in outcomes} == {None, FailureKind.OBJECT}
    assert all(o.message and PREFIX not in o.message for o in outcomes if not o.ok)
    assert world.keys() == {task.key for task in tasks} - gone
    for n in (1, 2, 3, 79):
        head = world.s3.head_object(Bucket=world.bucket, Key=tasks[n].key)
        assert (head["ContentType"], head["ContentLength"]) == (f"text/x-{n % 2}", n % 5)


ODD_KEYS = (
    ["a b", "quote'single", 'quote"double', "back\\slash", "star*", "what?", "[set]", "{brace}", "$HOME", "`id`",
     "; echo foo", "a&b|c", "percent%20", "plus+", "hash#1", "at@home", ".hidden", "trailing.", "trailing ",
     " leading", "naïve-é-日本.txt", "-rf", "--help", "\u202eleft"]
)  # fmt: skip


@pytest.mark.parametrize("name", ODD_KEYS)
def test_odd_keys_arrive_as_they_are_or_are_refused_up_front(make, world: World, name: str) -> None:
    engine = make(world.target())
    task = world.file(name.encode(), name.encode(), key="odd/" + name)
    if engine.accepts(task) is not None:
        assert engine.name not in ANY_NAME, "the second client takes every name"
        return
    outcomes = list(send(engine, [task]))
    assert [(o.ok, o.message) for o in outcomes] == [(True, "")]
    assert world.keys() == {"odd/" + name}
    assert world.body("odd/" + name) == name.encode()


def test_a_local_name_that_is_no_utf8(make, world: World) -> None:
    engine = make(world.target())
    task = world.file(b"latin-\xe9\xff.bin", b"bytes", key="latin-%E9%FF.bin")
    if engine.accepts(task) is not None:
        assert engine.name not in ANY_NAME
        return
    assert [o.ok for o in send(engine, [task])] == [True]
    assert world.body("latin-%E9%FF.bin") == b"bytes"


def test_big_files_go_in_parts_of_50_mib(make, parts_world: World) -> None:
    world = parts_world
    task = world.file(b"big", os.urandom(MIB) * 101)
    engine = make(world.target())
    assert [o.message for o in send(engine, [task]) if not o.ok] == []
    head = world.s3.head_object(Bucket=world.bucket, Key="big")
    assert head["ContentLength"] == 101 * MIB
    assert world.body("big") == Path(task.path).read_bytes()


def test_a_server_with_other_words_is_left_to_another_engine(world: World) -> None:
    """The small server begins an upload in parts by other words than S3: after some tries crt takes none such more."""
    engine = CrtEngine(world.target())
    try:
        tasks = [sparse(world, f"big{n}", 51 * MIB) for n in range(2)]
        for task in tasks:
            assert engine.accepts(task) is None
        assert {outcome.failure for outcome in send(engine, tasks)} == {FailureKind.TRANSIENT}
        assert engine.accepts(tasks[0]) == "crt cannot read how this server begins an upload in parts"
        assert [outcome.ok for outcome in send(engine, [world.file(b"small", b"1")])] == [True]
    finally:
        engine.close()


def test_missing_bucket_stops(make, world: World) -> None:
    task = world.file(b"x", b"x")
    target = Target("b-absent-" + os.urandom(4).hex(), world.server.endpoint, 2)
    (outcome,) = send(make(target), [task])
    assert outcome.failure is FailureKind.STOP
    assert "bucket" in outcome.message.lower()
    assert "\n" not in outcome.message


def test_wrong_secret_stops_and_is_not_shown(make, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "wrong" + os.urandom(12).hex()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    (outcome,) = send(make(world.target()), [world.file(b"x", b"x")])
    assert outcome.failure is FailureKind.STOP
    assert secret not in outcome.message
    assert "\n" not in outcome.message


def test_closing_in_flight_leaves_nothing(make, world: World) -> None:
    before, threads = children(), set(threading.enumerate())
    engine = make(world.target())
    for n in range(engine.window):
        engine.submit(world.file(b"c%d" % n, os.urandom(MIB)))
    engine.close()
    engine.close()
    assert engine.outstanding == 0
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (children() - before or set(threading.enumerate()) - threads):
        time.sleep(0.05)
    assert children() <= before
    assert set(threading.enumerate()) <= threads


def test_a_killed_child_is_replaced(make, world: World) -> None:
    before = children()
    engine = make(world.target(workers=2))
    if engine.name in ANY_NAME:
        engine.close()
        return  # no child process: threads of this one
    first = world.file(b"first", b"1")
    engine.submit(first)
    assert [o.ok for o in drain(engine, 1)] == [True]
    tasks = [world.file(b"k%d" % n, os.urandom(4 * MIB)) for n in range(engine.window)]
    for task in tasks:
        engine.submit(task)
    outcomes = engine.poll(0.0)  # what is held until now goes to the child
    for pid in children() - before:
        os.kill(pid, signal.SIGKILL)
    outcomes += drain(engine, len(tasks) - len(outcomes))
    assert sorted(o.task.key for o in outcomes) == sorted(t.key for t in tasks)
    assert {o.failure for o in outcomes if not o.ok} <= {FailureKind.TRANSIENT}
    assert any(not o.ok for o in outcomes)
    again = world.file(b"again", b"2")
    assert [o.ok for o in send(engine, [again])] == [True]
    assert world.body("again") == b"2"


def test_stopping_pulls_no_more(make, world: World) -> None:
    stop = threading.Event()
    tasks = (world.file(b"s%d" % n, b"x") for n in range(1000))
    outcomes = []
    engine = make(world.target(workers=1))
    for outcome in send(engine, tasks, stop):
        outcomes.append(outcome)
        stop.set()
    assert 1 <= len(outcomes) <= engine.window + 2 < 100


def sparse(world: World, name: str, size: int) -> UploadTask:
    """A file of holes that is sent in parts."""
    task = world.file(name.encode(), b"")
    os.truncate(task.path, size)
    return UploadTask(task.path, task.key, size, os.stat(task.path).st_mtime_ns)


SENDING = ["PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]


@pytest.mark.parametrize("fault", [faults.Bare(), faults.Nonsense()], ids=["bare", "nonsense"])
def test_answers_that_say_nothing_are_outcomes(make, parts_world: World, fault: faults.Fault) -> None:
    """Success without an upload id or an ETag, or with words in their place, at each step of sending."""
    world = parts_world
    steps = {f"{step}-{size}": (step, size) for step in SENDING for size in ("small", "big")}
    tasks = {key: sparse(world, key, 51 * MIB if size == "big" else 5) for key, (_, size) in steps.items()}

    def pick(request: faults.Request) -> faults.Fault | None:
        step, _ = steps.get(request.key, ("", ""))
        return fault if step == faults.kind(request) else None

    with faults.serve(world.server, pick) as proxy:
        engine = make(world.target(endpoint=proxy.endpoint, workers=8))
        for task in tasks.values():
            engine.submit(task)
        outcomes = drain(engine, len(tasks), 100)
        assert sorted(outcome.task.key for outcome in outcomes) == sorted(steps)
        assert engine.outstanding == 0
    dealt = {request.key for request, _ in proxy.faults}
    assert len(dealt) == 4 or (dealt and engine.name == "s5cmd"), "s5cmd panics, and takes with it what is in flight"
    for outcome in outcomes:
        if outcome.task.key not in dealt:
            assert outcome.ok or (outcome.failure is FailureKind.TRANSIENT and len(dealt) < 4), outcome
        elif engine.name in ANY_NAME:
            assert outcome.failure is FailureKind.TRANSIENT, outcome
            assert "run again later" in outcome.message
    assert world.keys() >= {outcome.task.key for outcome in outcomes if outcome.ok} - dealt


@pytest.mark.parametrize("raised", [KeyError("UploadId"), ValueError("no\nnumber"), MemoryError(), SystemExit(3)])
@pytest.mark.parametrize("kind", ANY_NAME)
def test_whatever_a_thread_raises_is_an_outcome(world: World, kind: str, raised: BaseException) -> None:
    class Odd:
        def put(self, *_: object, **__: object) -> str:
            raise raised

    target = world.target()
    engine = (
        BotoEngine(target, cast("ObjectStore", Odd()))
        if kind == "boto3"
        else MultipartEngine(target, cast("ObjectStore", Odd()))
    )
    (outcome,) = send(engine, [world.file(b"a", b"1")])
    assert outcome.failure is FailureKind.OBJECT
    assert type(raised).__name__ in outcome.message
    assert "\n" not in outcome.message
    engine.close()


def test_a_file_of_another_size_than_its_stat_is_an_outcome_at_once(make, world: World) -> None:
    """As one that shrinks or grows before it is read, and as those of /sys, which say 4,096 bytes and hold fewer."""
    tasks = [world.file(name, b"x" * 1000) for name in (b"shrunk", b"grown", b"good")]
    os.truncate(tasks[0].path, 500)
    os.truncate(tasks[1].path, 1500)
    huge = sparse(world, "huge", 51 * MIB)
    os.truncate(huge.path, 50 * MIB + 1)
    sized = "/sys/kernel/mm/transparent_hugepage/enabled"
    tasks += [huge, *([UploadTask(sized, "sized", 4096, os.stat(sized).st_mtime_ns)] if os.path.exists(sized) else [])]
    start = time.monotonic()
    outcomes = {outcome.task.key: outcome for outcome in send(make(world.target()), tasks)}
    assert time.monotonic() - start < 60
    assert set(outcomes) == {task.key for task in tasks}
    assert outcomes["good"].ok
    for key, outcome in outcomes.items():
        if outcome.ok:  # then what is there is what the file holds, whatever its size is called
            path = next(task.path for task in tasks if task.key == key)
            assert world.body(key) == Path(path).read_bytes()


def test_a_silent_server_is_seen_and_left_behind(make, parts_world: World) -> None:
    """Nothing moves, which the caller sees; closing takes a moment; the same engine goes on with what answers."""
    world = parts_world
    silent = True
    before = children()

    def pick(request: faults.Request) -> faults.Fault | None:
        return faults.Silent() if silent and request.put else None

    with faults.serve(world.server, pick) as proxy:
        engine = make(world.target(endpoint=proxy.endpoint))
        tasks = [world.file(b"s%d" % n, b"x" * 1000) for n in range(4)] + [sparse(world, "big", 60 * MIB)]
        for task in tasks:
            engine.submit(task)
        deadline = time.monotonic() + 30
        while len(proxy.faults) < 4 and time.monotonic() < deadline:
            assert engine.poll(0.1) == []
        time.sleep(3)
        assert engine.moved is not None
        first = engine.moved
        assert 0 < first < time.monotonic()
        for _ in range(30):
            assert engine.poll(0.1) == []
        assert engine.moved < first + 3, "what stands still moves"
        start = time.monotonic()
        engine.close()
        assert time.monotonic() - start < 4
        assert engine.outstanding == 0
        assert children() <= before
        silent = False
        assert [outcome.ok for outcome in send(engine, [world.file(b"again", b"2")])] == [True]
    assert world.keys() == {"again"}, "what was cut off was sent all the same"


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
@pytest.mark.parametrize("kind", list(ENGINES))
def test_every_name_at_once_on_the_gateway(kind: str, gateway, bucket: str, tmp_path: Path) -> None:
    """Control characters too, which the small server cannot hold."""
    world = World(gateway, bucket, tmp_path)
    engine = ENGINES[kind](world.target())
    try:
        names = [*ODD_KEYS, "tab\there", "new\nline", "\x7fdelete", "a<b>&c"]
        tasks = [world.file(name.encode(), name.encode(), key="odd/" + name) for name in names]
        tasks = [task for task in tasks if engine.accepts(task) is None]
        assert len(tasks) >= len(ODD_KEYS)
        assert kind not in ANY_NAME or len(tasks) == len(names)
        assert [(o.task.key, o.message) for o in send(engine, tasks) if not o.ok] == []
        assert world.keys() == {task.key for task in tasks}
        assert all(world.body(task.key) == task.key.removeprefix("odd/").encode() for task in tasks)
    finally:
        engine.close()


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
@pytest.mark.parametrize("kind", list(ENGINES))
def test_no_overwrite_is_atomic_where_claimed(kind: str, gateway, bucket: str, tmp_path: Path) -> None:
    world = World(gateway, bucket, tmp_path)
    engine = ENGINES[kind](world.target(no_overwrite=True))
    try:
        if not engine.atomic_create:
            return
        world.s3.put_object(Bucket=bucket, Key="there", Body=b"old")
        outcomes = {
            o.task.key: o for o in send(engine, [world.file(b"there", b"newer"), world.file(b"fresh", b"first")])
        }
        assert outcomes["there"].failure is FailureKind.REFUSED
        assert outcomes["fresh"].ok
        assert (world.body("there"), world.body("fresh")) == (b"old", b"first")
    finally:
        engine.close()
