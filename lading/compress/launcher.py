"""One launch of a compress job: plan, let an engine run the workers, judge by the markers.

Input: settings. Output: an exit code.
Invariant: what an engine, a launcher or a cluster reports is never believed;
0 means that every unit's marker is in the state, that of the last too, which
comes after the report and the records of all source files and outputs.
"""

import contextlib
import functools
import hashlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lading.compress import file_records as records
from lading.compress import hashing, inventory
from lading.compress import state as states
from lading.compress.destination import Destination, open_destination
from lading.compress.inventory import LEFT_OUT, UNACCOUNTED
from lading.compress.job import CompressionJob, CompressionUnit, Kind, Refused, SourceFile, UnitRecord, load_kind
from lading.compress.library_watch import LIMIT, watch_libraries
from lading.compress.names import OUTPUT_LIST, REPORT, SOURCE_LIST
from lading.compress.preview.shown_outputs import keep_pictures
from lading.compress.reads import recorded
from lading.compress.sources import Source, scan_source
from lading.coordination import lock
from lading.coordination.claims import CompletionRecords, LaunchState, explain, file_name, unfinished
from lading.coordination.heartbeat import Heartbeat, LivenessMonitor
from lading.coordination.signals import stop_on_signals
from lading.coordination.worker import WorkerContext, worker_loop
from lading.core.atomic import atomic_write
from lading.core.bounded import parse_json, read_object
from lading.core.command_line import printable
from lading.core.errors import ConsistencyError, LadingError, PartialFailure, UsageError
from lading.core.identity import this_process
from lading.core.progress import Progress, counted, format_bytes, format_count, format_seconds
from lading.parallel.local import run_locally
from lading.parallel.mpi import World, join_world, leave_world
from lading.parallel.slurm import find_allocation

SHOWN_FAILURES = 20
# How long a finished process may take to close its cluster before it is ended.
TEARDOWN = 20.0
# How long ranks wait for the first sign of rank 0.
PLANNER_PATIENCE = 300.0
# Codecs of units whose outputs are their sources.
AS_THEY_ARE = ("copy", "link")
TIME_IS_UP, INTERRUPTED = "the time limit is reached", "interrupted"

# One engine: (worker, how many, stop) → None; returns when no worker is left.
Engine = Callable[[Callable[[str, int, threading.Event], None], int, threading.Event], None]


@dataclass(frozen=True)
class LaunchSettings:
    """What the flags ask for; ``options`` are those of the kind."""

    source: Path
    destination: str
    kind: str
    engine: str
    workers: int
    state: Path
    max_time: float | None
    stall: float
    interface: str | None
    options: dict[str, Any]
    json: bool
    recheck: bool
    dry_run: bool


def run(settings: LaunchSettings) -> int:
    """Compress with the engine that was asked for, or that the launcher implies."""
    if settings.engine == "dask":
        return run_with_dask(settings)
    if settings.engine == "local":
        return run_alone(settings, settings.workers, run_locally)
    world = join_world(finalize=False)
    if settings.engine == "mpi" or world.comm is not None:
        return run_with_mpi(settings, world)
    return run_alone(settings, settings.workers, run_locally)


def new_launch() -> str:
    """Return a name for this launch that no other one has."""
    return f"{time.strftime('%Y%m%dT%H%M%S')}-{os.urandom(4).hex()}"


def run_alone(settings: LaunchSettings, workers: int, engine: Engine) -> int:
    """Run a whole job from this process."""
    launch = new_launch()
    stop = threading.Event()
    stop_on_signals(stop)
    with hold(settings, launch) as directory:
        refused: list[str] = []
        while plan_launch(settings, workers):
            with watch_progress(settings, launch, workers, stop):
                worker = functools.partial(work, settings.state, launch, workers, settings.stall)
                engine(worker, workers, stop)
            # Only a refusal that is new changes the plan; anything else ends the run.
            if stop.is_set() or refused == (refused := states.read_refusals(settings.state)):
                break
            LaunchState(directory).reset()
        code = exit_code(settings, LaunchState(directory), stop)
        states.remove_attempts(settings.state)
    return code


@contextlib.contextmanager
def hold(settings: LaunchSettings, launch: str) -> Iterator[Path]:
    """Hold the job for this launch; yields the launch's directory, which is gone afterwards."""
    states.open_state(settings.state, settings.source, settings.destination)
    allocation = find_allocation()
    with lock.hold(settings.state, launch, allocation.job if allocation else None):
        states.remove_attempts(settings.state)
        directory = settings.state / "attempts" / launch
        directory.mkdir(parents=True)
        yield directory


def plan_launch(settings: LaunchSettings, ranks: int) -> bool:
    """Make or read the plan and drop markers whose files are gone; False when nothing is left to do."""
    kind = load_kind(settings.kind)
    job = CompressionJob(settings.source, settings.destination, settings.kind, settings.options, ranks=ranks)
    if not (settings.state / states.PLAN).exists():
        report = Path(settings.destination) / REPORT
        if "://" not in settings.destination and report.exists():
            if kind.secret(job) is not None:
                raise UsageError(
                    f"{report} does not say with which password its archives were made, and the state that does, "
                    f"{settings.state}, is gone; give another destination"
                )
            return not already_reported(report, job)
    with watch_libraries(settings.source, min(settings.stall, LIMIT)):
        planned = states.prepare(kind, job, settings.state)
    for line in planned.job.facts.get("notice", ()):  # what a kind wants people to know: sizes, memory, weak choices
        print(printable(line), file=sys.stderr)
    for line in inventory.describe(*(planned.job.facts.get(key, ()) for key in (LEFT_OUT, UNACCOUNTED))):
        print(printable(line), file=sys.stderr)
    markers = CompletionRecords(settings.state / "done")
    names = markers.names()
    dropped = 0
    place = open_destination(planned.job)
    for unit in planned.units:
        if file_name(unit.id) not in names:
            continue
        if not record_holds(place, markers, unit, settings.recheck):
            markers.drop(unit.id)
            dropped += 1
    for unit in planned.hashing:
        marker = read_record(markers, unit) if file_name(unit.id) in names else None
        if file_name(unit.id) in names and (marker is None or not hashing.stands(settings.state, unit, marker)):
            markers.drop(unit.id)
            dropped += 1
    if dropped or (file_name(states.LAST) in names and not report_stands(place, settings.state)):
        markers.drop(states.LAST)
    if dropped:
        print(
            f"{counted(dropped, 'finished unit has', 'finished units have')} lost or changed files and are done again",
            file=sys.stderr,
        )
    left = bool(unfinished(states.all_units(planned), markers.names()))
    if left:
        states.refuse_unrecorded(planned, settings.state)
    return left


def report_stands(place: Destination, state: Path) -> bool:
    """Tell whether a finished job's report is still in its destination, as it was written."""
    report = states.read_report(state, place.name)
    try:
        return report is not None and (place.root is None or place.read(REPORT) == report)
    except FileNotFoundError:
        return False


def already_reported(report: Path, job: CompressionJob) -> bool:
    """Tell whether a report without state is of this very job; ``UsageError`` when it is of another.

    Only the program writes that name: a source's own file of it is carried under another.
    """
    try:
        record = read_object(report)
        same = (record["source"], record["options"]) == (str(job.source), dict(job.options))
        unchanged = record["source_fingerprint"] == scan_source(job.source).fingerprint
    except (ValueError, KeyError, TypeError):
        same = unchanged = False
    if not (same and unchanged):
        raise UsageError(f"{report} is of another source, or the source changed since; give another destination")
    return True


def read_record(markers: CompletionRecords, unit: CompressionUnit) -> UnitRecord | None:
    """Return the marker of a finished unit, None when it is damaged."""
    record = markers.read(unit.id)
    try:
        return states.decode_record(record) if record is not None else None
    except ValueError:
        return None


def record_holds(place: Destination, markers: CompletionRecords, unit: CompressionUnit, recheck: bool) -> bool:
    """Tell whether a unit's marker is whole and its files are still as they were."""
    marker = read_record(markers, unit)
    return marker is not None and states.outputs_stand(place, marker, recheck=recheck)


def work(state: Path, launch: str, ranks: int, stall: float, worker: str, index: int, stop: threading.Event) -> None:
    """Be one worker of a launch: runs in a child process, an MPI rank or a dask task."""
    # One process a core does the work: threads inside codecs and BLAS would only fight over cores.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS"):
        os.environ.setdefault(name, "1")
    planned = states.read_plan(state / states.PLAN)
    kind = load_kind(planned.job.kind)
    planned = states.fill_options(planned, kind)

    hashed = {unit.id for unit in planned.hashing}

    def do(unit: Any) -> dict[str, Any]:
        if unit.id == states.LAST:
            return finish(kind, planned, state)
        if unit.id in hashed:
            return states.encode_result(hashing.run(kind, planned.job, unit, state))
        try:
            with recorded() as reads:
                result = kind.run(planned.job, unit)
            return states.encode_result(replace(result, reads=reads.encode()))
        except Refused as error:
            states.write_refusal(state, error.what)
            raise

    worker_loop(WorkerContext(state, launch, worker, index, ranks, stall), states.all_units(planned), do, stop)


def finish(kind: Kind, planned: states.Planned, state: Path) -> dict[str, Any]:
    """Do what only makes sense when every unit is done, and write the report."""
    markers = CompletionRecords(state / "done")

    def read(unit: CompressionUnit) -> UnitRecord:
        record = markers.read(unit.id)
        if record is None:
            raise LadingError(f"the record of {unit.id} is gone; run the same command again")
        try:
            return states.decode_record(record)
        except ValueError as error:
            raise LadingError(f"the record of {unit.id} is damaged ({error}); run the same command again") from error

    whole = {
        record.path: (record, tables)
        for unit in planned.hashing
        for record, tables in hashing.read_tables(state, unit, read(unit))
    }
    known = {path: tables for path, (_, tables) in whole.items()}
    found: list[UnitRecord] = []
    partly: set[str] = set()
    with Source.of(planned.job) as source:
        for unit in planned.units:
            marker = read(unit)
            records.tie(marker.result.reads, source, known, state)
            partly.update(marker.result.reads)
            found.append(replace(marker, result=replace(marker.result, reads={})))
    job = planned.job
    facts = kind.finish(job, found)
    with Source.of(job) as source:
        # Of a file of which no unit read anything, nothing is carried.
        carried = [record for path, (record, _) in whole.items() if path in partly]
        carried += [record for marker in found for record in marker.result.sources]
        sources, lacking = records.check_sources(source, planned.fingerprint, carried, state)
    records.write_sources(state, job.source, sources)
    with open_destination(job) as place:
        listed = list_sources(place, state, sources)
        accounts = {"sources": listed, **list_outputs(place, found)}
        report = states.encode_report(states.report(planned, found, facts, accounts, lacking))
        place.write(REPORT, [report])
        keep_pictures(state, facts, place.read)
    place.tidy()
    records.write_outputs(state, job.destination, records.check_outputs(place, found))
    with atomic_write(state / REPORT, "wb") as stream:
        stream.write(report)
    return {}


def list_sources(place: Destination, state: Path, sources: Sequence[SourceFile]) -> Any:
    """Return the list of source files for the report; of many, what stands for it: a file in the destination."""
    if len(sources) <= states.MOST_LISTED:
        return [records.source_row(record) for record in sources]
    content = (state / records.SOURCES).read_bytes()
    place.write(SOURCE_LIST, [content])
    return {
        "file": SOURCE_LIST,
        "files": len(sources),
        "bytes": sum(record.size for record in sources),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def list_outputs(place: Destination, markers: Sequence[UnitRecord]) -> dict[str, Any]:
    """Return the destination's files with their digests for the report; of many, what stands for them: a file there.

    Where files are carried as they are, the list of sources says the same.
    """
    if all(marker.result.codec in AS_THEY_ARE for marker in markers):
        return {}
    # An earlier run may have come as far as these two.
    outputs = records.check_outputs(place, markers, {REPORT, OUTPUT_LIST})
    if len(outputs) <= states.MOST_OUTPUTS:
        return {"outputs": [records.output_row(output) for output in outputs]}
    content = records.encode_outputs(outputs)
    place.write(OUTPUT_LIST, [content])
    return {
        "outputs": {
            "file": OUTPUT_LIST,
            "files": len(outputs),
            "bytes": sum(output.size for output in outputs),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    }


@contextlib.contextmanager
def watch_progress(settings: LaunchSettings, launch: str, workers: int, stop: threading.Event) -> Iterator[None]:
    """Show progress, and end the launch when its time is over or somebody asked."""
    planned = states.read_plan(settings.state / states.PLAN)
    costs = {file_name(unit.id): unit.cost for unit in planned.units}
    costs |= {file_name(unit.id): 0 for unit in planned.hashing}  # the same bytes, once more
    total = sum(costs.values())
    attempt = LaunchState(settings.state / "attempts" / launch)
    ended = threading.Event()
    started = time.monotonic()
    before = CompletionRecords(settings.state / "done").names()

    def look() -> None:
        with Progress("compress") as progress:
            while not ended.wait(0.5):
                if stop.is_set():
                    attempt.stop(INTERRUPTED)
                if settings.max_time is not None and time.monotonic() - started > settings.max_time:
                    attempt.stop(TIME_IS_UP)
                if progress.due():
                    done = CompletionRecords(settings.state / "done").names() & costs.keys()
                    size = sum(costs[name] for name in done)
                    rate = sum(costs[name] for name in done - before) / max(progress.elapsed, 1e-9)
                    rest = f", {format_seconds((total - size) / rate)} left" if rate else ""
                    progress.show(
                        f"{format_count(len(done))} of {counted(len(costs), 'unit')}, {format_bytes(size)} of "
                        f"{format_bytes(total)}, {format_bytes(rate)}/s on {counted(workers, 'worker')}{rest}"
                    )

    thread = threading.Thread(target=look, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True)
class LaunchResult:
    """What the markers say: an exit code, and the lines for people."""

    code: int
    lines: tuple[str, ...]
    report: dict[str, Any] | None = None


def evaluate(settings: LaunchSettings, attempt: LaunchState, stop: threading.Event) -> LaunchResult:
    """Return the verdict on a job: any process can, and all come to the same."""
    report = states.read_report(settings.state, settings.destination)
    plan = settings.state / states.PLAN
    planned = states.read_plan(plan) if plan.exists() else None
    left = unfinished(states.all_units(planned), CompletionRecords(settings.state / "done").names()) if planned else []
    if not left and report is not None:
        record = parse_json(report)
        path = f"{settings.destination.rstrip('/')}/{REPORT}"
        line = (
            f"done: {counted(record['units'], 'unit')}, {format_bytes(record['bytes_in'])} → "
            f"{format_bytes(record['bytes_out'])} (ratio {record['ratio']}), each read back and compared; {path}"
        )
        return _account(record, line, path)
    count = sum(unit.id != states.LAST for unit in left)
    total = len(planned.units) + len(planned.hashing) if planned else 0
    summary = f"{format_count(count)} of {counted(total, 'unit is', 'units are')} left"
    failures, reason = attempt.failures(), attempt.stopped()
    if failures:
        shown = [str(failure["message"]) for failure in failures[:SHOWN_FAILURES]]
        if len(failures) > SHOWN_FAILURES:
            shown.append(f"and {len(failures) - SHOWN_FAILURES} more like these")
        codes = {failure["exit_code"] for failure in failures}
        code = ConsistencyError.exit_code if ConsistencyError.exit_code in codes else PartialFailure.exit_code
        return LaunchResult(
            code, (*shown, f"{summary}; fix the problems listed above, then run the same command again")
        )
    if reason == TIME_IS_UP:
        return LaunchResult(0, (f"stopped because --max-time is reached: {summary}; run the same command again",))
    if stop.is_set() or reason:
        return LaunchResult(130, (f"interrupted: {summary}; run the same command again to continue",))
    return LaunchResult(PartialFailure.exit_code, (f"{summary} because workers died; run the same command again",))


_UNACCOUNTED_ITEMS = (
    "item of the source is in no output, and no reader accounted for it",
    "items of the source are in no output, and no reader accounted for them",
)


def _account(record: dict[str, Any], line: str, path: str) -> LaunchResult:
    """Return the verdict on a finished job: 3 when its source holds what nobody accounted for."""
    left_out, missed = record.get(f"{LEFT_OUT}_items", 0), record.get(f"{UNACCOUNTED}_items", 0)
    if missed:
        names = ", ".join(record[UNACCOUNTED][: inventory.SHOWN])
        return LaunchResult(
            PartialFailure.exit_code,
            (
                f"{counted(missed, *_UNACCOUNTED_ITEMS)}: "
                f"{names}; "
                f"move them out of the source, or compress it with --kind generic; all else is {line}",
            ),
            record,
        )
    if left_out:
        line += f"; left out by name: {counted(left_out, 'item')}, see left_out in {path}"
    return LaunchResult(0, (line,), record)


def exit_code(settings: LaunchSettings, attempt: LaunchState, stop: threading.Event) -> int:
    """Print the verdict and return its exit code."""
    result = evaluate(settings, attempt, stop)
    if result.code == 0:
        print(json.dumps(result.report) if settings.json and result.report else result.lines[0], flush=True)
    else:
        report_failures("\n".join(result.lines))
    return result.code


def report_failures(message: str) -> None:
    """Print each line of a message as an error."""
    for line in message.split("\n"):
        print(f"error: {printable(line)}", file=sys.stderr, flush=True)


def report_error(error: Exception) -> int:
    """Print what happened, a sentence for what a person can cause; return the exit code."""
    message, code = explain(error)
    report_failures(message)
    if not isinstance(error, LadingError | OSError):
        traceback.print_exception(error)
    return code


def run_with_mpi(settings: LaunchSettings, world: World) -> int:
    """Be one rank: rank 0 plans, every rank works, whoever is left ends the job."""
    launch = str(world.comm.bcast(new_launch() if world.is_root else None)) if world.comm is not None else new_launch()
    code = 1
    try:
        code = live_as_rank(settings, world, launch)
    except Exception as error:  # noqa: BLE001 - the process ends without unwinding: what happened must be said here
        code = report_error(error)
    finally:
        leave_world(world, code)
    return code


def live_as_rank(settings: LaunchSettings, world: World, launch: str) -> int:
    """Plan or wait for the plan, work, judge."""
    stop = threading.Event()
    stop_on_signals(stop)
    directory = settings.state / "attempts" / launch
    if not world.is_root:
        load_kind(settings.kind)  # its imports take as long as a short plan
        refusal = wait_for_plan(directory)
        if refusal is not None:
            return refusal
        work(settings.state, launch, world.size, settings.stall, f"r{world.rank}", world.rank, stop)
        return evaluate(settings, LaunchState(directory), stop).code
    try:
        with hold(settings, launch), Heartbeat(LaunchState(directory).alive, this_process("planner")):
            needed = plan_launch(settings, world.size)
            write_text(directory / "ready", "")
            if needed:
                with watch_progress(settings, launch, world.size, stop):
                    work(settings.state, launch, world.size, settings.stall, "r0", 0, stop)
            return exit_code(settings, LaunchState(directory), stop)
    except LadingError as error:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "refused", str(error.exit_code))
        raise


def write_text(path: Path, text: str) -> None:
    """Write a small file that appears whole."""
    with atomic_write(path) as stream:
        stream.write(text)


def wait_for_plan(directory: Path) -> int | None:
    """Wait until rank 0 has planned; the exit code when it refused or died, else None."""
    monitor = LivenessMonitor(LaunchState(directory).alive)
    nap = 0.02
    seen = False
    started = time.monotonic()
    while not (directory / "ready").exists():
        time.sleep(nap)
        # About a tenth of the wait so far: a quick plan is noticed soon, a long one costs few looks.
        nap = min(nap * 1.1, 1.0)
        if (directory / "refused").exists():
            return int((directory / "refused").read_text())
        seen = seen or (directory / "alive" / "planner").exists()
        lost = monitor.find("planner") is None if seen else time.monotonic() - started > PLANNER_PATIENCE
        if lost and not (directory / "ready").exists() and not (directory / "refused").exists():
            return 1
    return None


def run_with_dask(settings: LaunchSettings) -> int:
    """Run the job on dask: over the ranks of an MPI launcher, or on a cluster of this machine."""
    # Before its import, and for its child processes too: its shutdown prints a wall of lost connections.
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    from lading.parallel import dask_pool as daskpool

    world = join_world(finalize=False)
    if world.comm is None:
        return run_alone(settings, settings.workers, daskpool.run_local_cluster)
    code, client = 1, False
    try:
        client = daskpool.join_cluster(settings.interface)
        code = run_as_client(settings, world) if client else 0
    except Exception as error:  # noqa: BLE001 - the process ends without unwinding: what happened must be said here
        code = report_error(error)
    finally:
        # A nanny whose child was killed may never hear of the end.
        leave_world(world, code, TEARDOWN if client else PLANNER_PATIENCE)
    return code


def run_as_client(settings: LaunchSettings, world: World) -> int:
    """Run the job from the client's rank of a joined dask cluster, and close that."""
    from lading.parallel import dask_pool as daskpool

    code = 1
    try:
        code = run_alone(settings, world.size - daskpool.OVERHEAD_RANKS, daskpool.run_joined)
    finally:
        # The watchdog first: a cluster that does not shut down must not idle to its time limit.
        daskpool.after(TEARDOWN, os._exit, code)
        daskpool.close_joined()
    return code
