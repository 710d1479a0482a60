"""Living and dead processes, seen from the same PID namespace and from another one: nobody is robbed, nobody blocks."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.coordination.claims import Claims
from lading.coordination.heartbeat import Heartbeat, LivenessMonitor, lease_seconds
from lading.coordination.lease import Lease
from lading.coordination.lock import Lock, hold
from lading.core import identity
from lading.core.atomic import AppendLog
from lading.core.errors import LockHeldError, UsageError
from lading.core.identity import NOBODY, ProcessId, decode_process, owner_runs, owner_tag, this_process
from lading.journal.records import encode_header
from lading.verification.manifest import read_manifest
from tests import labtree
from tests.conftest import REPOSITORY, need, need_program
from tests.mirrors import Listed
from tests.servers import faults

ROUNDS = int(os.environ.get("LADING_RACES", "40"))
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY)}


def unshared(*command: object, mount: bool = True, cwd: Path | None = None, **environment: str):
    """Start a program in a PID namespace of its own, as a container is."""
    flags = ["--map-root-user", "--user"] if os.geteuid() else []
    flags += ["--pid", "--fork", "--kill-child", *(["--mount-proc"] if mount else [])]
    return start("unshare", *flags, *command, cwd=cwd, **environment)


def start(*command: object, cwd: Path | None = None, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", code: int, *words: str) -> str:
    """Return what a process said, which must have ended with ``code`` and these words."""
    out, errors = process.communicate(timeout=200)
    assert process.returncode == code, (process.returncode, out, errors)
    assert "Traceback" not in errors
    assert all(word in errors for word in words), errors
    return out + errors


@pytest.fixture(scope="session", autouse=True)
def namespaces() -> None:
    need_program("unshare")
    probe = unshared("true")
    _, errors = probe.communicate(timeout=30)
    need(f"no PID namespaces here: {errors.strip()}" if probe.returncode else None)


@pytest.fixture
def ended() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes of a test that end with it."""
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        process.kill()
        process.communicate()


def wait_for(true, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


# Stages, one of them in a container.


def test_an_uploader_in_a_container_keeps_its_lock_and_its_proofs(s3, bucket: str, tmp_path: Path, ended) -> None:
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, 30, odd=False)
    labtree.make_plan(root, directory)
    s3.make_bucket(bucket)
    with faults.serve(s3, lambda request: faults.Stall(0.2) if request.put else None) as proxy:
        header = encode_header("w", f"s3://{bucket}/", proxy.endpoint, str(root), "2026-01-01T00:00:00Z")
        (directory / "journal").mkdir()
        for number in range(13):  # so many that whoever is alone makes one of them
            with AppendLog(directory / "journal" / f"old{number}.jsonl") as log:
                log.append([header])
        first = unshared(*labtree.upload_command(root, proxy, bucket, "--max-workers", "4"), cwd=directory)
        ended.append(first)
        wait_for(lambda: any(request.put for request in list(proxy.requests)))
        second = start(*labtree.upload_command(root, proxy, bucket), cwd=directory)
        finish(second, 75, "process ", " is already uploading this plan")
        assert first.poll() is None, "the first was at work still"
        finish(first, 0)
        sent = [request.key for request in proxy.requests if request.put and ".lading-canary" not in request.key]
        assert len(sent) == len(set(sent)) == 30, "nothing was sent twice"
        assert labtree.upload(root, directory, proxy, bucket).returncode == 0
        assert len([r for r in proxy.requests if r.put and ".lading-canary" not in r.key]) == 30, "all proofs are there"
    assert labtree.verify(root, directory, s3, bucket).returncode == 4  # another endpoint than the journal's
    assert not list((directory / "journal" / "leases").iterdir())


def test_the_journals_that_a_verify_in_a_container_reads_stay(s3, bucket: str, tmp_path: Path, ended) -> None:
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, 30, odd=False)
    labtree.make_plan(root, directory)
    s3.make_bucket(bucket)
    slow = threading.Event()
    with faults.serve(s3, lambda r: faults.Stall(1.0) if slow.is_set() and not r.put and not r.key else None) as proxy:
        assert labtree.upload(root, directory, proxy, bucket).returncode == 0
        header = encode_header("w", f"s3://{bucket}/", proxy.endpoint, str(root), "2026-01-01T00:00:00Z")
        for number in range(13):
            with AppendLog(directory / "journal" / f"old{number}.jsonl") as log:
                log.append([header])
        slow.set()
        command = [sys.executable, "-m", "lading", "verify", root, "--bucket", f"s3://{bucket}"]
        command += ["--endpoint-url", proxy.endpoint]
        reader = unshared(*command, cwd=directory)
        ended.append(reader)
        leases = directory / "journal" / "leases"
        wait_for(lambda: any(leases.iterdir()))
        finish(start(*labtree.upload_command(root, proxy, bucket), cwd=directory), 0)
        assert any(leases.iterdir()), "the reader is there still"
        assert (directory / "journal" / "old0.jsonl").exists()
        slow.clear()
        finish(reader, 0)
    manifest = read_manifest(directory / "manifest.jsonl.zst")
    assert (manifest.end.objects, manifest.end.complete) == (30, True)


SLOW_PLAN = (
    "import sys, time; import lading.compress.launcher as launch; from jobs.__main__ import main\n"
    "plan = launch.plan_launch\n"
    "def slow(*arguments): time.sleep(2); return plan(*arguments)\n"
    "launch.plan_launch = slow\n"
    "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
)


def test_a_compression_in_a_container_keeps_its_job(tmp_path: Path, ended) -> None:
    source, destination = tmp_path / "in", tmp_path / "out"
    labtree.make_tree(source, 10, odd=False)
    (tmp_path / "slow.py").write_text(SLOW_PLAN)
    flags = ["compress", source, destination, "--kind", "generic", "--workers", "1", "--state", tmp_path / "state"]
    first = unshared(sys.executable, tmp_path / "slow.py", *flags, LADING_LEASE_SECONDS="4")
    ended.append(first)
    wait_for((tmp_path / "state" / "lease").exists)
    second = start(sys.executable, "-m", "jobs", *flags, LADING_LEASE_SECONDS="4")
    finish(second, 75, "another run works on", "process ")
    finish(first, 0)
    assert json.loads((destination / "compress.json").read_text())["units"]


SLOW_MIRROR = (
    "import sys, time; from contextlib import contextmanager; from lading.mirror import layout\n"
    "from lading.cli import mirror as verbs\n"
    "take = layout.MirrorLayout.lock\n"
    "@contextmanager\n"
    "def slow(self):\n"
    "    with take(self): open('held', 'x').close(); time.sleep(2); yield\n"
    "layout.MirrorLayout.lock = slow\n"
    "sys.exit(verbs.main(sys.argv[1:]))\n"
)


def test_a_mirror_in_a_container_keeps_its_lock(mirror, tmp_path: Path, ended) -> None:
    listing = Listed(tmp_path / "data")
    listing.put("session_2026-01-01_00-00-00/a.bin", b"a")
    mirror(listing, "update", zarrs=False)
    listing.put("session_2026-01-01_00-00-00/b.bin", b"b")
    listing.write(tmp_path / "manifest.jsonl.zst", complete=True)
    first = unshared(sys.executable, "-c", SLOW_MIRROR, "--config", "mirror.yaml", "update", cwd=tmp_path)
    ended.append(first)
    wait_for((tmp_path / "held").exists)
    command = [sys.executable, "-m", "lading", "mirror", "--config", "mirror.yaml"]
    finish(start(*command, "update", cwd=tmp_path), 75, "another run works on", "process ")
    finish(start(*command, "verify", cwd=tmp_path), 75, "process ")
    finish(first, 0)
    finish(start(*command, "verify", cwd=tmp_path), 0)


def test_what_a_restore_in_a_container_has_begun_stays(tmp_path: Path, ended) -> None:
    code = (
        "import os, sys, time; from lading.core.temporary_files import TemporaryFiles\n"
        "root = os.open(sys.argv[1], os.O_RDONLY); scratch = TemporaryFiles()\n"
        "if sys.argv[2] == 'begin': scratch.create(b'file', root); print('begun', flush=True); time.sleep(60)\n"
        "scratch.sweep((), root); print('swept', len(os.listdir(root)))\n"
    )
    first = unshared(sys.executable, "-c", code, tmp_path, "begin")
    ended.append(first)
    assert first.stdout
    assert first.stdout.readline() == "begun\n"
    assert finish(start(sys.executable, "-c", code, tmp_path, "sweep"), 0) == "swept 1\n"
    assert finish(unshared(sys.executable, "-c", code, tmp_path, "sweep"), 0) == "swept 1\n"
    here = start(sys.executable, "-c", code, tmp_path, "begin")
    ended.append(here)
    assert here.stdout
    here.stdout.readline()
    assert finish(start(sys.executable, "-c", code, tmp_path, "sweep"), 0) == "swept 2\n"
    here.kill()
    here.wait()
    assert finish(unshared(sys.executable, "-c", code, tmp_path, "sweep"), 0) == "swept 2\n"
    assert finish(start(sys.executable, "-c", code, tmp_path, "sweep"), 0) == "swept 1\n"


def test_two_portals_do_not_serve_one_home(tmp_path: Path, ended) -> None:
    def portal(name: str) -> list[object]:
        socket = f"unix:{tmp_path / name}"
        return [sys.executable, "-m", "jobs", "serve", "--home", tmp_path / "home", "--listen", socket]

    first = unshared(*portal("a"))
    ended.append(first)
    wait_for((tmp_path / "a").exists)
    finish(start(*portal("b")), 75, "another portal serves", "process ")
    assert first.poll() is None


@pytest.mark.parametrize("mount", [True, False])
def test_a_runner_in_a_container_keeps_its_job(tmp_path: Path, ended, mount: bool) -> None:
    """Without a /proc of its own the ids that a process reads there are others than its own."""
    code = (
        "import sys, time; from pathlib import Path; from lading.core.command_line import run_main\n"
        "from lading.coordination.lock import hold\n"
        "def main(_):\n    with hold(Path(sys.argv[1]), 'inside'): print('held', flush=True); time.sleep(60)\n"
        "sys.exit(run_main(main))\n"
    )
    inside = unshared(sys.executable, "-c", code, tmp_path, mount=mount, LADING_LEASE_SECONDS="4")
    ended.append(inside)
    assert inside.stdout
    assert inside.stdout.readline() == "held\n"
    finish(start(sys.executable, "-c", code, tmp_path, LADING_LEASE_SECONDS="4"), 75, "another run works on")


def test_two_in_one_container_without_its_own_proc(tmp_path: Path, ended) -> None:
    code = (
        "import subprocess, sys; from pathlib import Path; from lading.coordination.lease import Lease\n"
        "from lading.core.errors import LockHeldError\n"
        "with Lease(Path(sys.argv[1]), sys.argv[2]):\n"
        "    if sys.argv[2] == 'one': sys.exit(subprocess.run([sys.executable, '-c', sys.argv[3], sys.argv[1], 'two']"
        ", stderr=subprocess.DEVNULL).returncode)\n"
        "    print('two hold it')\n"
    )
    assert finish(unshared(sys.executable, "-c", code, tmp_path, "one", code, mount=False), 1) == ""


# Who took what from whom.


def test_of_many_takers_of_a_dead_ones_lock_one_gets_it(tmp_path: Path) -> None:
    dead = ProcessId("dead", "h/b/n", 1, 1).encode()
    for number in range(ROUNDS):
        path = tmp_path / str(number)
        path.write_bytes(dead)
        barrier, won = threading.Barrier(8), []

        def take(name: str, path: Path = path, barrier=barrier, won=won) -> None:
            lock = Lock(path, ProcessId(name, "h/b/n", 2, 2).encode())
            barrier.wait()
            if lock.take(lambda link: link.process.writer != "dead") is None:
                won.append(lock)

        takers = [threading.Thread(target=take, args=(f"t{n}",)) for n in range(8)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
        assert len(won) == 1
        won[0].release()
    assert not list(tmp_path.iterdir()), "nothing is left of it"


def test_who_judged_late_takes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_bytes(ProcessId("dead", "h/b/n", 1, 1).encode())
    late, quick, next_one = (Lock(path, ProcessId(name, "h/b/n", 2, 2).encode()) for name in ("late", "quick", "next"))
    judged = late.look()
    assert quick.follow(quick.look())
    assert not late.follow(judged), "another has it"
    quick.release()
    assert next_one.follow(None)
    assert not late.follow(judged), "it was given back, and is another's"
    assert (link := late.look()) is not None
    assert link.process.writer == "next"
    assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]
    # Who was judged dead by mistake gives back what it has no more.
    assert late.follow(late.look())
    next_one.release()
    assert (link := quick.look()) is not None
    assert link.process.writer == "late"


RACE = """
import fcntl, os, random, sys, time
from pathlib import Path
from lading.coordination.lease import Lease
from lading.coordination.lock import hold
from lading.core.errors import LockHeldError
directory, kind, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
end, held = time.monotonic() + seconds, 0
while time.monotonic() < end:
    name = f"{os.getpid()}-{time.time_ns()}"
    try:
        with hold(directory, name) if kind == "job" else Lease(directory, name):
            descriptor = os.open(directory / "oracle", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel knows who lives
            except BlockingIOError:
                print("two hold it", flush=True)
                os._exit(9)
            held += 1
            time.sleep(random.random() / 200)
            if random.random() < 0.3:
                os.kill(os.getpid(), 9)
            os.close(descriptor)
    except LockHeldError:
        time.sleep(random.random() / 500)
print("held", held)
"""


def race(directory: Path, kind: str, seconds: float, processes: int) -> int:
    """Let processes take, hold, give back and die; returns how often one took the lock."""
    directory.mkdir(exist_ok=True)
    end = time.monotonic() + seconds
    running = [start(sys.executable, "-c", RACE, directory, kind, seconds) for _ in range(processes)]
    deaths = held = 0
    while running:
        for process in list(running):
            if process.poll() is None:
                continue
            out, errors = process.communicate()
            running.remove(process)
            assert "two hold it" not in out
            assert process.returncode in (0, -signal.SIGKILL), errors
            deaths += process.returncode != 0
            held += int(out.split()[-1]) if out else 1
            if time.monotonic() < end - 0.5:
                left = str(end - time.monotonic())
                running.append(start(sys.executable, "-c", RACE, directory, kind, left))
        time.sleep(0.01)
    assert deaths, "some died with the lock"
    return held


@pytest.mark.parametrize("kind", ["job", "plan"])
def test_processes_that_take_hold_and_die(tmp_path: Path, kind: str) -> None:
    assert race(tmp_path, kind, 1.5, 6) > 5


@pytest.mark.long
@pytest.mark.parametrize("kind", ["job", "plan"])
def test_many_processes_that_take_hold_and_die(tmp_path: Path, kind: str) -> None:
    assert race(tmp_path, kind, 25, 16) > 50


@pytest.mark.long
@pytest.mark.parametrize("kind", ["job", "plan"])
def test_processes_of_two_namespaces_take_turns(tmp_path: Path, kind: str) -> None:
    """Nobody dies here, so that no wrong verdict after a stall can be meant: what is given back is free for all."""
    code = RACE.replace("< 0.3", "< 0")
    running = [unshared(sys.executable, "-c", code, tmp_path, kind, 15) for _ in range(4)]
    running += [start(sys.executable, "-c", code, tmp_path, kind, 15) for _ in range(4)]
    turns = [int(finish(process, 0).split()[-1]) for process in running]
    assert sum(turns) > 10
    assert sum(turns[:4])
    assert sum(turns[4:])


# What is on disk.


def test_locks_of_earlier_editions_are_respected_while_their_holders_live(tmp_path: Path) -> None:
    plan, job = tmp_path / "plan", tmp_path / "job"
    (plan / "leases").mkdir(parents=True)
    old = {"writer": "w-1", "host": "node/0a-boot", "pid": 7, "started": 9, "group": "g"}
    (plan / "lock").write_text(json.dumps(old))
    (plan / "leases" / "w-1").write_text(json.dumps(old))
    with pytest.raises(LockHeldError, match="process 7 on node is already uploading"), Lease(plan, "new"):
        pass
    (job / "holders").mkdir(parents=True)
    (job / "lease").write_text('{"launch": "l", "job": null, "host": "node:4026531836", "pid": 7, "since": 1.5}')
    beats = job / "holders" / "l"
    beats.write_text('{"machine": "node:4026531836", "pid": 7, "start": "99"}')
    timer = threading.Timer(1.5, os.utime, [beats])
    timer.start()
    with pytest.raises(LockHeldError, match="process 7 on node:4026531836; wait"), hold(job, "new"):
        pass
    timer.join()
    for path in (plan / "leases" / "w-1", beats):
        os.utime(path, (1, 1))
    with Lease(plan, "new"), hold(job, "new"):
        pass
    assert not (plan / "lock").exists()
    assert not (job / "lease").exists()


def test_a_later_launch_of_the_same_scheduler_job_does_not_wait(tmp_path: Path) -> None:
    (tmp_path / "holders").mkdir()
    (tmp_path / "lease").write_text('{"launch": "l", "job": "12", "host": "lost:1", "pid": 7, "since": 1.5}')
    (tmp_path / "holders" / "l").write_text('{"machine": "lost:1", "pid": 7, "start": "99"}')
    with hold(tmp_path, "again", "12"):
        pass


ODD = (
    "",
    "[]",
    "3",
    '"x"',
    "{}",
    '{"pid": []}',
    "[" * 3000,
    "\xff",
    '{"pid": -1}',
    "1" * 5000,
    '{"pid": 1, "writer": "\\ud800"}',
)


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_files_of_any_content_name_nobody_and_go_by_age(tmp_path: Path, text: str) -> None:
    for name in ("leases", "claims", "holders"):
        (tmp_path / name).mkdir()
    places = [tmp_path / name for name in ("lock", "lease", "leases/odd", "claims/b", "holders/odd")]
    for path in places:
        path.write_text(text)
    with pytest.raises(LockHeldError, match="a process that cannot be named"), Lease(tmp_path, "next"):
        pass
    for path in places:
        os.utime(path, (1, 1))
    with Lease(tmp_path, "next") as lease, hold(tmp_path, "next"):
        assert lease.others() == []
        assert lease.claim("b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["claims", "holders", "leases"]
    assert decode_process(text.encode()) == NOBODY


def test_names_in_records_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "beats").mkdir()
    (tmp_path / "other").touch()
    monitor = LivenessMonitor(tmp_path / "beats")
    for name in ("../other", "", ".", "..", "x" * 300, "a\0b"):
        assert not monitor.lives(ProcessId(name, "h", 1, 1))
        assert monitor.find(name) is None


# Who lives.


def test_a_process_that_cannot_be_looked_at_is_not_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under hidepid, for processes of another user."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ticks = identity.start_ticks(child.pid) or 0
    process = ProcessId("w", identity.this_host(), child.pid, ticks)
    tag = owner_tag().split("-")[0] + f"-{child.pid}-{ticks}-ab"
    assert process.runs() is True
    assert ProcessId("w", identity.this_host(), child.pid, ticks + 1).runs() is False
    with monkeypatch.context() as hidden:
        hidden.setattr(identity, "_look", lambda pid: ("", 0))
        assert process.runs() is None
        assert owner_runs(tag) is None
    assert owner_runs(tag) is True
    child.kill()
    assert_dead = time.monotonic() + 10
    while process.runs() and time.monotonic() < assert_dead:
        time.sleep(0.01)
    assert process.runs() is False, "a zombie"
    child.communicate()
    assert process.runs() is False
    assert owner_runs(tag) is False


def test_a_heartbeat_that_was_removed_comes_back(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, this_process("w"), seconds=0.6) as heartbeat:
        heartbeat.path.unlink()
        wait_for(heartbeat.path.exists, 10)
    time.sleep(0.3)
    assert not heartbeat.path.exists()


def test_the_dead_are_known_at_once_where_the_file_server_tells_the_time(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, this_process("judge")) as clock:
        monitor = LivenessMonitor(tmp_path, clock)
        far = ProcessId("far", "elsewhere", 3, 3)
        (tmp_path / "far").write_bytes(far.encode())
        assert monitor.lives(far)
        then = (tmp_path / "far").stat().st_mtime - lease_seconds() - 10
        os.utime(tmp_path / "far", (then, then))
        assert not monitor.lives(far)
        assert [process.writer for process in monitor.find_all()] == ["judge"]
    # Who has no heartbeat of its own can only wait and see.
    (tmp_path / "far").write_bytes(far.encode())
    os.utime(tmp_path / "far", (then, then))
    watcher = LivenessMonitor(tmp_path, seconds=0.2)
    assert watcher.lives(far)
    time.sleep(0.3)
    assert not watcher.lives(far)


@pytest.mark.parametrize("value", ["", "0", "-3", "nan", "inf", "x", "1e9"])
def test_the_switch_is_checked(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LADING_LEASE_SECONDS", value)
    if value:
        with pytest.raises(UsageError, match="LADING_LEASE_SECONDS"):
            lease_seconds()
    else:
        assert lease_seconds() == 120


# Ten thousand ranks.


def test_ranks_of_a_launch_look_at_no_lease_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease(tmp_path, "launch") as first:
        peers = [first.holder.writer]
        for number in range(300):
            process = this_process(f"rank{number}")
            (tmp_path / "leases" / process.writer).write_bytes(process.encode())
            peers.append(process.writer)
        looks = 0

        def count(directory: object) -> list[str]:
            nonlocal looks
            looks += 1
            return listed(directory)

        listed = os.listdir
        monkeypatch.setattr(os, "listdir", count)
        with Lease(tmp_path, "launch") as element:  # of an array: its lock's holder says enough
            assert element.claim("batch")
            assert element.is_there(first.holder.writer)
            element.release("batch")
        assert looks == 0
        rank = Lease(tmp_path, "launch")
        rank.register()
        rank.follow()
        beats = [tmp_path / "leases" / name for name in peers[1:]]
        for path in beats:
            path.unlink()
        waiting = threading.Thread(target=rank.leave, args=(peers,))
        waiting.start()
        first.leave(peers)
        waiting.join(20)
        assert not waiting.is_alive()
        rank.__exit__()
        assert looks == 0


def test_claims_go_to_one_and_outlive_their_dead(tmp_path: Path) -> None:
    with Heartbeat(tmp_path / "alive", this_process("here")) as heartbeat:
        claims = Claims(tmp_path / "claims", heartbeat.process, LivenessMonitor(tmp_path / "alive", heartbeat))
        gone = Claims(tmp_path / "claims", ProcessId("gone", identity.this_host(), 2**22, 1), LivenessMonitor(tmp_path))
        assert gone.take("ab/x")
        assert claims.take("ab/x"), "its holder has no heartbeat"
        assert claims.take("ab/x")
        assert (link := claims.look("ab/x")) is not None
        assert link.depth == 1
        claims.release_all()
        assert claims.look("ab/x") is None


def test_the_oracle_of_the_races_sees_two_holders(tmp_path: Path) -> None:
    first = os.open(tmp_path / "oracle", os.O_RDWR | os.O_CREAT)
    fcntl.flock(first, fcntl.LOCK_EX)
    finished = start(sys.executable, "-c", RACE, tmp_path, "job", 1)
    assert "two hold it" in finished.communicate(timeout=30)[0]
    assert finished.returncode == 9
    os.close(first)
