"""Ephys: ratio and MB/s per core of every codec, bare and through the whole path; ranks; peak memory.

Speeds of codecs are uncompressed MB per second of CPU time; those of ranks are
of wall time, beside bare calls in as many processes at once. The whole path
reads, hashes, encodes, writes, reads back, decodes and compares. Its limit is
what no verified path can do without: one encode and one decode.
The bare calls have what the path has: the same parameters, samples in the
codec's order, a C library that keeps freed memory. The large source of the
ranks lies in memory (``/dev/shm``), since what the kernel dropped of it would
be read from the disk again; what is written goes to TMPDIR and is flushed.
Settings: LADING_BENCH_SECONDS (of recording, default 96).
"""

import hashlib
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.figures import note
from lading.cli import compress as command
from lading.compress import state as states
from lading.compress.buffers import tune_malloc
from lading.compress.ephys import ephys_plan as ephys
from lading.compress.ephys.codecs import NAMES, make_codec
from lading.compress.job import CompressionJob
from lading.core.atomic import read_log
from lading.core.errors import UsageError
from lading.testing.ephys_data import RATE, make_samples

CHANNELS = 384
SECONDS = int(os.environ.get("LADING_BENCH_SECONDS", "96"))
BARE_SECONDS = 4.0
TURN_SECONDS = 4.0
RANKS = (1, 2, 4)
RANK_TURNS = 5
# What generated data stand for: (name, step, offset).
KINDS = (("A: 1 count steps", 1, 0), ("B: steps of 12, offsets", 12, 400))


def time_once(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of a call, and its result."""
    start = time.process_time()
    result = action()
    return time.process_time() - start, result


def write_source(directory: Path, samples: np.ndarray) -> Path:
    """Write a plain recording with its YAML."""
    directory.mkdir()
    samples.tofile(directory / "data.bin")
    fields = {"files": "data.bin", "channels": samples.shape[1], "sampling_frequency": RATE}
    (directory / "r.recording.yaml").write_text(json.dumps(fields))
    return directory


def compare_codecs(scratch: Path) -> None:
    """Print one line per kind of data and codec."""
    tune_malloc()
    print(f"\nephys, {CHANNELS} channels × 1 s chunks, MB per CPU second")
    head = ("data", "codec", "ratio", "encode", "decode", "limit", "whole path", "of limit", "of encode alone")
    print("{:<24} {:<11} {:>6} {:>7} {:>7} {:>7} {:>11} {:>9} {:>16}".format(*head))
    for label, step, offset in KINDS:
        samples = make_samples(4 * RATE, CHANNELS, 1, step=step, offset=offset)
        source = write_source(scratch / f"in-{step}", samples)
        for name in NAMES:
            try:
                codec = make_codec(name, samples.dtype, {})
            except UsageError as error:
                peers.tell(f"{label:<24} {name}", str(error))
                continue
            chunk = np.ascontiguousarray(samples[RATE : 2 * RATE])
            # The bare call gets its samples in the order it wants; turning them is the path's work.
            ordered = np.ascontiguousarray(chunk.T) if codec.order == "F" else chunk
            megabytes = chunk.nbytes / 1e6
            out = scratch / f"out-{step}-{name}"
            flags = [str(source), str(out), "--kind", "ephys", "--no-clip", "--codec", name]
            settings = command.read_settings(flags)
            job = CompressionJob(source, settings.destination, "ephys", settings.options)
            plan = ephys.plan(job)
            job = CompressionJob(source, settings.destination, "ephys", settings.options, plan.facts)
            # In turn, so that what else the machine does meets all alike; the least of each leaves that out.
            least, results, began = [math.inf] * 3, [], time.monotonic()
            while not results or time.monotonic() - began < TURN_SECONDS:
                for unit in plan.units:
                    encode, encoded = time_once(lambda c=codec, o=ordered: c.codec.encode(o))
                    decode, _ = time_once(lambda c=codec, e=encoded: c.codec.decode(e))
                    spent, result = time_once(lambda j=job, u=unit: ephys.run(j, u))
                    results.append(result)
                    each = (encode, decode, spent * megabytes * 1e6 / result.bytes_in)
                    least = [min(pair) for pair in zip(least, each)]
            encode, decode, spent = least
            whole = megabytes / spent
            ratio = sum(r.bytes_in for r in results) / sum(r.bytes_out for r in results)
            limit = megabytes / (encode + decode)
            print(
                f"{label:<24} {name:<11} {ratio:6.2f} {megabytes / encode:7.0f} {megabytes / decode:7.0f} {limit:7.0f} "
                f"{whole:11.0f} {whole / limit:8.2f}× {whole * encode / megabytes:15.2f}×"
            )
            note(f"ephys, {label}, {name}: of the limit", whole / limit, better="more")
            note(f"ephys, {label}, {name}: compression", ratio, better="more")
            shutil.rmtree(out)


def bare_loop(samples: np.ndarray, barrier: Any, speeds: Any) -> None:
    """Encode and decode one chunk again and again for some seconds; give the MB per second of wall time."""
    tune_malloc()
    codec = make_codec("pcodec", samples.dtype, {})
    codec.codec.decode(codec.codec.encode(samples))
    barrier.wait()
    start, count = time.monotonic(), 0
    while time.monotonic() - start < BARE_SECONDS:
        codec.codec.decode(codec.codec.encode(samples))
        count += 1
    speeds.put(count * samples.nbytes / 1e6 / (time.monotonic() - start))


def bare_speed(samples: np.ndarray, processes: int) -> float:
    """Return the MB per second that many processes reach together with bare calls: cores share a memory."""
    context = multiprocessing.get_context("spawn")
    barrier, speeds = context.Barrier(processes), context.Queue()
    running = [context.Process(target=bare_loop, args=(samples, barrier, speeds)) for _ in range(processes)]
    for process in running:
        process.start()
    total = sum(speeds.get() for _ in running)
    for process in running:
        process.join()
    return total


@dataclass(frozen=True)
class Launch:
    """One run of the whole command: MB per second of each kind, peak bytes of a rank, what it wrote."""

    blocks: float
    command: float
    per_cpu_second: float
    peak: int
    written: str


def run_ranks(source: Path, out: Path, ranks: int, size: float) -> Launch:
    """Compress ``size`` MB by so many ranks; the output is removed."""
    mpiexec = Path(sys.executable).parent / "mpiexec"
    launcher = [str(mpiexec if mpiexec.exists() else "mpiexec"), "-n", str(ranks), sys.executable, "-m", "mpi4py"]
    flags = [str(source), str(out), "--kind", "ephys", "--engine", "mpi", "--no-clip"]
    start = time.monotonic()
    subprocess.run([*launcher, "-m", "jobs", "compress", *flags], check=True, stdout=subprocess.DEVNULL)
    wall = time.monotonic() - start
    state = out.with_name(f"{out.name}.state")
    sizes = {unit.id: unit.cost for unit in states.read_plan(state / "plan.json").units}
    steady, left = 0.0, []
    for path in state.glob("log/*.jsonl"):
        records = [record for record in read_log(path) if record]
        left += [record for record in records if record["event"] == "left"]
        done = [record for record in records if record["event"] == "done" and record["item"] in sizes]
        if done:
            begin, end = done[0]["time"], done[-1]["time"] + done[-1]["seconds"]
            steady += sum(sizes[record["item"]] for record in done) / 1e6 / (end - begin)
    written = hashlib.sha256()
    for path in sorted(out.rglob("traces_seg0/*")):
        written.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    shutil.rmtree(out)
    shutil.rmtree(state)
    processor = sum(record["cpu_seconds"] for record in left)
    peak = max(record["peak_bytes"] for record in left)
    return Launch(steady, size / wall, size / processor, peak, written.hexdigest())


def compare_ranks(memory: Path, scratch: Path) -> None:
    """Print one line per number of ranks, for the default codec: bare calls and ranks in turn, the median turn."""
    samples = np.tile(make_samples(8 * RATE, CHANNELS, 1), (max(1, SECONDS // 8), 1))
    source = write_source(memory / "in-ranks", samples)
    size = samples.nbytes / 1e6
    ordered = np.ascontiguousarray(samples[:RATE].T)
    del samples
    cores = len(os.sched_getaffinity(0))
    print(
        f"\nranks: {size:.0f} MB ({SECONDS} s of recording), pcodec, {cores} cores; wall MB/s; "
        f"bare: encode + decode by as many processes at once, just before; of {RANK_TURNS} turns the median\n"
        "blocks: each rank from its first block's begin to its last one's end, summed; command: start, plan, report too"
    )
    head = ("ranks", "bare", "blocks", "of bare", "command", "MB per CPU s", "peak MB a rank", "equal")
    print("{:>5} {:>6} {:>7} {:>8} {:>8} {:>13} {:>15} {:>6}".format(*head))
    first = ""
    for ranks in RANKS:
        turns: list[tuple[float, Launch]] = []
        for _ in range(RANK_TURNS):
            bare = bare_speed(ordered, ranks)
            turns.append((bare, run_ranks(source, scratch / f"out-ranks-{ranks}", ranks, size)))
        turns.sort(key=lambda turn: turn[1].blocks / turn[0])
        bare, launch = turns[len(turns) // 2]
        first = first or launch.written
        equal = all(other.written == first for _, other in turns)
        print(
            f"{ranks:5} {bare:6.0f} {launch.blocks:7.0f} {launch.blocks / bare:7.2f}× {launch.command:8.0f} "
            f"{launch.per_cpu_second:13.0f} {launch.peak / 1e6:15.0f} {'yes' if equal else 'NO':>6}",
            flush=True,
        )
        note(f"ephys, {ranks} ranks: of bare calls", launch.blocks / bare, better="more")
        note(f"ephys, {ranks} ranks: the command", launch.command, "MB/s", "more")


def main() -> int:
    """Run both comparisons in scratch directories (TMPDIR chooses where output goes)."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-ephys-", dir="/dev/shm") as memory,
        tempfile.TemporaryDirectory(prefix="bench-ephys-") as scratch,
    ):
        compare_codecs(Path(scratch))
        compare_ranks(Path(memory), Path(scratch))
    return 0


if __name__ == "__main__":
    main()
