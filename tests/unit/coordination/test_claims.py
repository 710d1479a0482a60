"""Claims, markers, leases and the worker's loop, with items that only count."""

import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.coordination.claims import CompletionRecords, LaunchState, file_name, group_items, measure_depths
from lading.coordination.heartbeat import Heartbeat, LivenessMonitor
from lading.coordination.lock import Lock, hold
from lading.coordination.worker import WorkerContext, worker_loop
from lading.core.atomic import read_log
from lading.core.errors import LadingError, LockHeldError
from lading.core.identity import ProcessId, start_ticks, this_host, this_process
from lading.parallel import shm_cleanup as segments
from lading.parallel.slurm import Allocation, find_allocation


@dataclass(frozen=True)
class Thing:
    id: str
    cost: int = 1
    after: tuple[str, ...] = ()


def desk(state: Path, worker: str = "a", index: int = 0, ranks: int = 1, **more: Any) -> WorkerContext:
    return WorkerContext(state, "try", worker, index, ranks, **more)


def events(state: Path, kind: str) -> list[str]:
    records = [record for path in sorted((state / "log").glob("*.jsonl")) for record in read_log(path)]
    return [record["item"] for record in records if record and record["event"] == kind]


@given(st.lists(st.integers(0, 10**6), max_size=200), st.integers(1, 8))
def test_groups_hold_every_item_once_largest_first(costs: list[int], ranks: int) -> None:
    things = [Thing(f"t{number}", cost) for number, cost in enumerate(costs)]
    groups = group_items(things, ranks)
    members = [item for group in groups for item in group.items]
    assert sorted(item.id for item in members) == sorted(thing.id for thing in things)
    assert [item.cost for item in members] == sorted(costs, reverse=True)
    assert len({group.name for group in groups}) == len(groups)
    assert len(groups) >= min(len(things), 40 * ranks)


def test_large_plans_are_claimed_in_groups() -> None:
    things = [Thing(f"t{number}") for number in range(100_000)]
    groups = group_items(things, 10)
    assert 400 <= len(groups) < 3000
    assert max(len(group.items) for group in groups) <= 64


def test_depths_follow_what_items_wait_for() -> None:
    things = [Thing("c", after=("b",)), Thing("a"), Thing("b", after=("a",)), Thing("end", after=("*",))]
    assert measure_depths(things) == {"a": 0, "b": 1, "c": 2, "end": 3}
    with pytest.raises(ValueError, match="itself"):
        measure_depths([Thing("a", after=("b",)), Thing("b", after=("a",))])


def test_everything_is_done_once_by_many_workers(tmp_path: Path) -> None:
    things = [Thing(f"t{n}", after=(f"t{n - 1}",) if n % 10 else ()) for n in range(60)] + [Thing("end", 0, ("*",))]
    order: list[str] = []

    def work(item: Any) -> Mapping[str, Any]:
        order.append(item.id)
        return {}

    workers = [
        threading.Thread(target=worker_loop, args=(desk(tmp_path, f"w{n}", n, 3), things, work, threading.Event()))
        for n in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(order) == sorted(thing.id for thing in things)
    assert order[-1] == "end"
    assert all(order.index(t.after[0]) < order.index(t.id) for t in things[:-1] if t.after)
    assert sorted(events(tmp_path, "done")) == sorted(order)


def test_a_failure_stops_only_what_waits_for_it(tmp_path: Path) -> None:
    things = [Thing("good"), Thing("bad"), Thing("later", after=("bad",)), Thing("end", 0, ("*",))]

    def work(item: Any) -> Mapping[str, Any]:
        if item.id == "bad":
            raise LadingError("bad.dat: truncated")
        return {}

    worker_loop(desk(tmp_path), things, work, threading.Event())
    assert events(tmp_path, "done") == ["good"]
    assert [f["message"] for f in desk(tmp_path).launch().failures()] == ["bad.dat: truncated"]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    things = [Thing("a"), Thing("b")]
    CompletionRecords(tmp_path / "done").mark("a", {"result": 1})
    worker_loop(desk(tmp_path), things, lambda item: {}, threading.Event())
    assert events(tmp_path, "done") == ["b"]


def test_a_damaged_marker_counts_for_nothing(tmp_path: Path) -> None:
    markers = CompletionRecords(tmp_path / "done")
    markers.mark("a", {})
    markers.path("a").write_text('{"item": "a"')
    assert markers.read("a") is None


def test_a_full_disk_stops_every_worker(tmp_path: Path) -> None:
    def work(item: Any) -> Mapping[str, Any]:
        raise LadingError("cannot write x: No space left on device") from OSError(28, "No space left on device")

    worker_loop(desk(tmp_path), [Thing(f"t{n}") for n in range(50)], work, threading.Event())
    assert len(desk(tmp_path).launch().failures()) == 1
    assert "No space left" in (desk(tmp_path).launch().stopped() or "")


def test_stop_ends_after_the_present_item(tmp_path: Path) -> None:
    stop = threading.Event()

    def work(item: Any) -> Mapping[str, Any]:
        stop.set()
        return {}

    worker_loop(desk(tmp_path), [Thing(f"t{n}") for n in range(50)], work, stop)
    assert len(events(tmp_path, "done")) == 1


def claim_as_dead(state: Path, thing: Thing, generation: int) -> None:
    """Leave the claim of a worker whose process is gone."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    start = start_ticks(ended.pid)
    ended.wait()
    alive = state / "attempts" / "try" / "alive"
    alive.mkdir(parents=True, exist_ok=True)
    process = ProcessId(f"dead{generation}", this_host(), ended.pid, start or 0)
    (alive / process.writer).write_bytes(process.encode())
    path = state / "attempts" / "try" / "claims" / group_items([thing], 1)[0].name
    path.parent.mkdir(parents=True, exist_ok=True)
    assert Lock(path, process.encode()).take(lambda link: False) is None


def test_the_claim_of_a_dead_worker_is_taken_over(tmp_path: Path) -> None:
    thing = Thing("a")
    claim_as_dead(tmp_path, thing, 0)
    worker_loop(desk(tmp_path), [thing], lambda item: {}, threading.Event())
    assert events(tmp_path, "done") == ["a"]


def test_an_item_that_kills_three_workers_is_given_up(tmp_path: Path) -> None:
    thing = Thing("a")
    for generation in range(3):
        claim_as_dead(tmp_path, thing, generation)
    worker_loop(desk(tmp_path), [thing], lambda item: {}, threading.Event())
    assert events(tmp_path, "done") == []
    assert "3 workers died on it" in desk(tmp_path).launch().failures()[0]["message"]


def test_a_living_claim_is_waited_for(tmp_path: Path) -> None:
    thing = Thing("a")
    group = group_items([thing], 1)[0]
    attempt = desk(tmp_path).launch()
    with Heartbeat(attempt.alive, this_process("other")) as other:
        assert attempt.claims(other).take(group.name)
        worker = threading.Thread(
            target=worker_loop, args=(desk(tmp_path), [thing], lambda item: {}, threading.Event())
        )
        worker.start()
        time.sleep(0.3)
        assert worker.is_alive()
        CompletionRecords(tmp_path / "done").mark("a", {})
        worker.join(timeout=10)
        assert not worker.is_alive()
    assert events(tmp_path, "done") == []


def test_a_stuck_worker_ends_itself(tmp_path: Path) -> None:
    code = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from tests.unit.coordination.test_claims import Thing, desk\n"
        "from lading.coordination.worker import worker_loop\n"
        "place, stop = desk(Path(sys.argv[1]), stall=0.3), threading.Event()\n"
        "worker_loop(place, [Thing('a')], lambda item: time.sleep(60), stop)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=50)
    assert ended.returncode == 70
    assert "counts as stuck" in ended.stderr
    assert LivenessMonitor(tmp_path / "attempts" / "try" / "alive").find("a") is None


def test_claims_exclude_each_other(tmp_path: Path) -> None:
    won: list[int] = []
    attempt = LaunchState(tmp_path)

    def race(number: int) -> None:
        with Heartbeat(attempt.alive, this_process(f"w{number}")) as worker:
            claims = attempt.claims(worker)
            won.extend(item for item in range(300) if claims.take(file_name(str(item))))
            ready.wait(60)

    ready = threading.Barrier(8)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(300))


def test_a_lease_keeps_others_out_and_ends_with_its_block(tmp_path: Path) -> None:
    with hold(tmp_path, "one"), pytest.raises(LockHeldError, match="another run works on"), hold(tmp_path, "two"):
        pass
    with hold(tmp_path, "three"):
        pass


def test_the_lease_of_a_killed_process_is_taken(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal\nfrom pathlib import Path\nfrom lading.coordination.lock import hold\n"
        "with hold(Path(sys.argv[1]), 'gone'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False, timeout=50).returncode == -9
    assert (tmp_path / "lease").exists()
    with hold(tmp_path, "next"):
        pass


def test_only_unused_old_segments_are_swept(tmp_path: Path) -> None:
    for name in ("mpich_shm_used", "mpich_shm_stale", "other_stale", "mpich_shm_young"):
        (tmp_path / name).write_bytes(b"\0" * 4096)
        if name != "mpich_shm_young":
            os.utime(tmp_path / name, (1, 1))
    with (tmp_path / "mpich_shm_used").open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        os.utime(tmp_path / "mpich_shm_used", (1, 1))
        assert segments.remove_stale_segments(tmp_path) == ["mpich_shm_stale"]


def test_allocation_facts() -> None:
    assert find_allocation({}) is None
    facts = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "4", "SLURM_NTASKS": "8", "SLURM_RESTART_COUNT": "2"}
    assert find_allocation(facts) == Allocation("7", 4, 8, 2, None)
    assert find_allocation({**facts, "SLURM_STEP_NUM_TASKS": "10", "SLURM_PROCID": "0"}) == Allocation("7", 4, 8, 2, 10)
