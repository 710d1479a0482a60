"""Nothing hangs an upload: signals, dead servers, answers that say nothing, and launches that lose a process.

LADING_INSTANTS sizes the test of signals, LADING_ROUNDS that of launches (the full claim is 30 and 50), and
LADING_MATRIX=all has every kind of request met with every fault, which takes four minutes a fault.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lading.core.atomic import read_log
from tests import labtree
from tests.conftest import REPOSITORY, need_program
from tests.servers import faults
from tests.servers.faults import Bare, Fault, Nonsense, Proxy, Refuse, Request, Say, Silent, Truncate, kind

INSTANTS = int(os.environ.get("LADING_INSTANTS", "8"))
MATRIX = os.environ.get("LADING_MATRIX", "6")  # of some 31 cases a fault
ROUNDS = int(os.environ.get("LADING_ROUNDS", "8"))
SEED = int(os.environ.get("LADING_SEED", "5"))
MIB = 1 << 20
GRACE_BOUND, TWICE_BOUND = (
    30.0,
    5.0,
)  # seconds after SIGTERM, and after a second one, as docs/explanation/decisions.md says
ENGINES = {
    "s5cmd": ["--engine", "s5cmd"],
    "obstore": ["--engine", "obstore"],
    "boto3": ["--engine", "boto3"],
    "crt": ["--engine", "crt"],
    "multipart": ["--resume-size", "1"],
}
# Of a site in a hurry: what takes minutes by default takes seconds.
HURRY = "connect=1 read=1.5 call=3 stall=3 silence=1 again=100 patience=5 backoff=0.2"
FAULTS: dict[str, Fault] = {"bare": Bare(), "nonsense": Nonsense(), "silent": Silent(), "half": Truncate()}
SENDING = ["PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"]
ASKING = ["ListObjectsV2", "DeleteObject", "ListMultipartUploads", "GetBucketEncryption", "HeadObject", "GetObject"]
AUDIT = ["ListObjectsV2", "ListObjectVersions", "GetBucketVersioning", "GetBucketEncryption"]
VERSIONED = Say("<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")


def survivors(mark: str) -> list[int]:
    """Return the processes that live with ``mark`` in their environment."""
    found = []
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            if mark.encode() in (place / "environ").read_bytes() and ") Z " not in (place / "stat").read_text():
                found.append(int(place.name))
        except OSError:
            continue
    return found


class Case:
    """A small release, its plan, a bucket, and a proxy that deals one fault to one kind of request."""

    def __init__(self, server, directory: Path, name: str, big: bool) -> None:
        self.server, self.name = server, name
        self.bucket = "b-" + os.urandom(6).hex()
        server.make_bucket(self.bucket)
        self.root, self.directory = directory / name / "data", directory / name / "run"
        labtree.make_tree(self.root, 4, odd=False)
        if big:
            with (self.root / "big").open("wb") as stream:
                stream.truncate(51 * MIB)
        labtree.make_plan(self.root, self.directory, largest="1G")
        self.picking: Callable[[Request], Fault | None] = lambda request: None

    def run(self, proxy: Proxy, *more: str, verify: bool = False) -> "subprocess.CompletedProcess[str]":
        command = labtree.upload_command(self.root, proxy, self.bucket, "--max-workers", "4", *more)
        if verify:
            command[1:2] = ["-m", "lading", "verify"]
            command = [word for word in command if word not in ("--max-workers", "4")]
        return subprocess.run(
            command, cwd=self.directory, env={**os.environ, "LADING_SECONDS": HURRY},
            capture_output=True, text=True, errors="surrogateescape", timeout=150, check=False,
        )  # fmt: skip

    def check_no_false_done(self) -> None:
        """Whatever is called proven is in the bucket, whole."""
        there, wanted = labtree.listing(self.server, self.bucket), labtree.expected(self.root)
        for path in (self.directory / "journal").glob("*.jsonl"):
            for record in read_log(path):
                if record and record["kind"] == "done":
                    assert there.get(record["key"]) == os.path.getsize(wanted[record["key"]]), (self.name, record)

    def check_all_there(self, *, probes: bool = False) -> None:
        """Every byte is in the bucket and nothing else; with ``probes`` a test object that would not go as well."""
        found = labtree.differences(self.server, self.bucket, self.root)
        assert [line for line in found if not (probes and "canary" in line)] == [], self.name


def is_probe(request: Request) -> bool:
    return "canary" in request.key


def deal(server, directory: Path, operation: str, fault: str, engine: str) -> None:
    """Meet one fault at each request of a kind for as long as the run lasts; then the server is sane again."""
    parts = operation in SENDING[1:] or operation == "ListParts"
    case = Case(server, directory, f"{operation}-{fault}-{engine}", parts)
    flags = [*ENGINES[engine], *(["--level", "crc64"] if operation in ("HeadObject", "GetObject") else [])]
    sick = False
    stays = operation == "DeleteObject"  # what a server calls deleted and keeps goes with the next run that sends

    def pick(request: Request) -> Fault | None:
        name = kind(request)
        if operation == "AbortMultipartUpload" and name == "UploadPart" and sick:
            return Refuse("InternalError")  # what makes an engine abort
        if (
            operation == "ListParts"
            and name == "CompleteMultipartUpload"
            and not case.directory.joinpath("on").exists()
        ):
            return Refuse("InternalError")  # what leaves an upload to go on with
        return FAULTS[fault] if sick and name == operation and not (name == "PutObject" and is_probe(request)) else None

    with faults.serve(server, pick) as proxy:
        if operation == "ListParts":
            assert case.run(proxy, *flags).returncode in (1, 3), case.name
        sick = True
        first = case.run(proxy, *flags)
        assert first.returncode in (0, 1, 3), (case.name, first.returncode, first.stderr)
        assert "Traceback" not in first.stderr, (case.name, first.stderr)
        assert first.returncode == 0 or "error: " in first.stderr, (case.name, first.stderr)
        case.check_no_false_done()
        if first.returncode == 0:
            case.check_all_there(probes=stays)
        sick = False
        (case.directory / "on").touch()
        again = case.run(proxy, *flags)
        assert again.returncode == 0, (case.name, again.returncode, first.stderr, again.stderr)
        case.check_all_there(probes=stays)


def audit(server, directory: Path, operation: str, fault: str) -> None:
    """Verify meets the fault: it ends, and claims nothing."""
    case = Case(server, directory, f"verify-{operation}-{fault}", big=False)
    sick = False

    def pick(request: Request) -> Fault | None:
        if sick and kind(request) == operation:
            return FAULTS[fault]
        return (
            VERSIONED if sick and operation == "ListObjectVersions" and kind(request) == "GetBucketVersioning" else None
        )

    with faults.serve(server, pick) as proxy:
        assert case.run(proxy).returncode == 0
        sick = True
        result = case.run(proxy, verify=True)
        assert "Traceback" not in result.stderr, (case.name, result.stderr)
        asked = [request for request in proxy.requests if kind(request) == operation]
        assert asked, case.name
        if operation in ("ListObjectsV2", "ListObjectVersions"):
            assert result.returncode in (1, 4), (case.name, result.returncode, result.stderr)
            assert not (case.directory / "manifest.jsonl.zst").exists(), case.name
        sick = False
        assert case.run(proxy, verify=True).returncode == 0, case.name


def deal_all(tasks: list[Callable[[], None]], at_once: int = 5) -> None:
    with ThreadPoolExecutor(at_once) as pool:
        errors = [error for error in (future.exception() for future in [pool.submit(task) for task in tasks]) if error]
    assert not errors, errors


SHORT = [
    ("CreateMultipartUpload", "bare", "boto3"),
    ("PutObject", "silent", "boto3"),
    ("ListObjectsV2", "bare", "s5cmd"),
]


@pytest.mark.long
def test_a_few_faults_for_ever(s3, tmp_path: Path) -> None:
    deal_all([lambda case=case: deal(s3, tmp_path, *case) for case in SHORT])


@pytest.mark.long
@pytest.mark.parametrize("fault", list(FAULTS))
def test_every_kind_of_request_with_every_fault(s3, tmp_path: Path, fault: str) -> None:
    """For each engine what it sends, for one of them what the run asks, and what an audit asks."""
    tasks: list[Callable[[], None]] = []
    for engine in ENGINES:
        for operation in SENDING:
            tasks.append(lambda o=operation, e=engine: deal(s3, tmp_path, o, fault, e))
    tasks += [lambda o=operation: deal(s3, tmp_path, o, fault, "s5cmd") for operation in ASKING]
    tasks += [lambda: deal(s3, tmp_path, "ListParts", fault, "multipart")]
    tasks += [lambda o=operation: audit(s3, tmp_path, o, fault) for operation in AUDIT]
    deal_all(tasks if MATRIX == "all" else random.Random(f"{SEED} {fault}").sample(tasks, int(MATRIX)))


@pytest.mark.long
def test_a_server_that_refuses_connections_for_a_minute(s3, tmp_path: Path) -> None:
    """With the limits as they are: each engine says so, goes on when it is back, and sends everything."""

    def refuse(engine: str) -> None:
        case = Case(s3, tmp_path, f"down-{engine}", big=True)
        seen = threading.Event()

        def pick(request: Request) -> Fault | None:
            if request.put and not is_probe(request):
                seen.set()
            return None

        with faults.serve(s3, pick) as proxy:
            command = labtree.upload_command(case.root, proxy, case.bucket, *ENGINES[engine])
            process = subprocess.Popen(
                command, cwd=case.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            assert seen.wait(120)
            proxy.down(True)
            time.sleep(60)
            proxy.down(False)
            _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, (engine, errors)
        assert f"no answer from {proxy.endpoint} since" in errors, (engine, errors)
        assert f"{proxy.endpoint} answers again" in errors, (engine, errors)
        case.check_all_there()

    deal_all([lambda engine=engine: refuse(engine) for engine in ENGINES])


def stop(server, directory: Path, number: int, chance: random.Random) -> str:
    """Send SIGTERM, once or twice, at a random instant of an upload of huge files to a server that died."""
    engine, twice = list(ENGINES)[number % len(ENGINES)], bool(number // len(ENGINES) % 2)
    how = "refusing" if number // (2 * len(ENGINES)) % 2 else "silent"
    case = Case(server, directory, f"stop-{number}", big=False)
    for name in ("huge0", "huge1", "huge2"):
        with (case.root / name).open("wb") as stream:
            stream.truncate(6 * 10**9)
    labtree.make_plan(case.root, case.directory, largest="10G")
    mark, dead = os.urandom(8).hex(), threading.Event()
    instant = chance.uniform(0.2, 8.0)

    def pick(request: Request) -> Fault | None:
        if request.key.startswith("huge") or dead.is_set():
            dead.set()
            return Silent()
        return None

    with faults.serve(server, pick) as proxy:
        command = labtree.upload_command(case.root, proxy, case.bucket, "--max-workers", "4", *ENGINES[engine])
        with (case.directory / "log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=case.directory, env={**os.environ, "LADING_MARK": mark}, stdout=log, stderr=log
            )
            try:
                begun = time.monotonic()
                if how == "refusing" and dead.wait(instant):
                    proxy.down(True)
                time.sleep(max(0.0, begun + instant - time.monotonic()))
                process.send_signal(signal.SIGTERM)
                told = time.monotonic()
                if twice:
                    try:
                        process.wait(chance.uniform(1.5, 4.0))
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGTERM)
                        told = time.monotonic()
                process.wait(60)
                took = time.monotonic() - told
            finally:
                process.kill()
    text = (case.directory / "log").read_text()
    assert process.returncode in (130, -signal.SIGTERM), (case.name, engine, process.returncode, text)
    assert took < (TWICE_BOUND if twice else GRACE_BOUND), (case.name, engine, how, instant, took, text)
    assert "Traceback" not in text, text
    deadline = time.monotonic() + 3
    while survivors(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert survivors(mark) == [], (case.name, engine)
    case.check_no_false_done()
    return f"{engine} {how} {'twice' if twice else 'once'} at {instant:.1f} s: {took:.1f} s, code {process.returncode}"


@pytest.mark.long
def test_sigterm_ends_in_time_whatever_hangs(s3, tmp_path: Path) -> None:
    def task(number: int) -> Callable[[], None]:
        return lambda: print(stop(s3, tmp_path, number, random.Random(SEED * 1000 + number)), flush=True)

    deal_all([task(number) for number in range(INSTANTS)], 4)


@pytest.mark.long
@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_sigterm_ends_at_once(s3, tmp_path: Path, engine: str) -> None:
    number = len(ENGINES) + list(ENGINES).index(engine)  # the second round is of those that are told twice

    class Late(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return min(b, 3.0)

    assert stop(s3, tmp_path, number, Late()).startswith(f"{engine} silent twice")


def tree_of(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [each for child in task.read_text().split() for each in tree_of(int(child))]
        except OSError:
            continue
    return found


@pytest.mark.long
def test_a_launch_that_loses_a_process_ends(s3, bucket: str, tmp_path: Path) -> None:
    """SIGKILL for a random process of ``mpiexec -n 3``: no rank outlives the launch, and none hangs."""
    need_program("mpiexec")
    chance = random.Random(SEED)
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, 3000, odd=False, most_bytes=2000)
    labtree.make_plan(root, directory, largest="30k")
    s3.make_bucket(bucket)
    killed = 0
    for number in range(ROUNDS):
        script, *arguments = labtree.upload_command(root, s3, bucket, "--max-workers", "4")[1:]
        command = ["mpiexec", "-n", "3", sys.executable, "-m", "mpi4py", script, *arguments]
        mark = os.urandom(8).hex()
        with (tmp_path / "log").open("a") as log:
            process = subprocess.Popen(
                command, cwd=directory, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "LADING_MARK": mark},
            )  # fmt: skip
            try:
                process.wait(chance.uniform(0.1, 4.0))
                if process.returncode == 0:  # all is sent: begin again
                    assert labtree.differences(s3, bucket, root) == []
                    bucket = "b-" + os.urandom(6).hex()
                    s3.make_bucket(bucket)
                    shutil.rmtree(directory / "journal")
            except subprocess.TimeoutExpired:
                victims = tree_of(process.pid)
                victim = chance.choice(victims)
                name = "?"
                killed += 1
                try:
                    name = Path(f"/proc/{victim}/cmdline").read_bytes().split(b"\0")[0].decode().rpartition("/")[2]
                    os.kill(victim, signal.SIGKILL)
                except OSError:
                    pass  # it ended by itself
                print(f"round {number}: {name} of {len(victims)} killed", flush=True)
                # A launch without one of its senders goes on; one without a rank, proxy or mpiexec ends soon.
                lives = name == "s5cmd" or name == "?"
                process.wait(200 if lives else 20)
            ended = time.monotonic()
            while survivors(mark) and time.monotonic() - ended < 10:
                time.sleep(0.1)
            assert survivors(mark) == [], f"round {number}"
    assert killed >= ROUNDS // 3
    last = labtree.upload(root, directory, s3, bucket)
    assert last.returncode == 0, last.stderr
    assert labtree.verify(root, directory, s3, bucket).returncode == 0
    assert labtree.differences(s3, bucket, root) == []
