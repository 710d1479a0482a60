"""Ephys: ratio and MB/s per core of every codec, bare and through the whole path; ranks; peak memory.

Speeds are uncompressed MB per second of CPU time, so that other work on the
machine does not count; wall time is shown beside it for the ranks. The whole
path reads, hashes, encodes, writes, reads back, decodes and compares. Its
limit is what no verified path can do without: one encode and one decode.
Settings: LADING_BENCH_SECONDS (of recording, default 24).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.ephys_data import RATE, make_samples
from jobs.compress import command, ephys
from jobs.compress.base import Job
from jobs.compress.recording.codecs import NAMES, make_codec, turn
from lading.files import read_log

CHANNELS = 384
SECONDS = int(os.environ.get("LADING_BENCH_SECONDS", "24"))
# What generated data stand for: (name, step, offset).
KINDS = (("A: 1 count steps", 1, 0), ("B: steps of 12, offsets", 12, 400))


def fastest(action: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """Return the least CPU seconds of some calls, and the last result."""
    best, result = float("inf"), None
    for _ in range(times):
        start = time.process_time()
        result = action()
        best = min(best, time.process_time() - start)
    return best, result


def write_source(directory: Path, samples: np.ndarray) -> Path:
    """Write a plain recording with its YAML."""
    directory.mkdir()
    samples.tofile(directory / "data.bin")
    fields = {"files": "data.bin", "channels": samples.shape[1], "sampling_frequency": RATE}
    (directory / "r.recording.yaml").write_text(json.dumps(fields))
    return directory


def compare_codecs(scratch: Path) -> None:
    """Print one line per kind of data and codec."""
    print(f"\nephys, {CHANNELS} channels × 1 s chunks, MB per CPU second")
    head = ("data", "codec", "ratio", "encode", "decode", "limit", "whole path", "of limit", "of encode alone")
    print("{:<24} {:<11} {:>6} {:>7} {:>7} {:>7} {:>11} {:>9} {:>16}".format(*head))
    for label, step, offset in KINDS:
        samples = make_samples(4 * RATE, CHANNELS, 1, step=step, offset=offset)
        source = write_source(scratch / f"in-{step}", samples)
        for name in NAMES:
            codec = make_codec(name, samples.dtype, {})
            chunk = np.ascontiguousarray(samples[RATE : 2 * RATE])
            # The bare call gets its samples in the order it wants; turning them is the path's work.
            ordered = turn(chunk) if codec.order == "F" else chunk
            megabytes = chunk.nbytes / 1e6
            encode, encoded = fastest(lambda c=codec, o=ordered: c.codec.encode(o))
            decode, _ = fastest(lambda c=codec, e=encoded: c.codec.decode(e))
            out = scratch / f"out-{step}-{name}"
            flags = [str(source), str(out), "--kind", "ephys", "--no-clip", "--codec", name]
            settings = command.read_settings(flags)
            job = Job(source, settings.destination, "ephys", settings.options)
            plan = ephys.plan(job)
            job = Job(source, settings.destination, "ephys", settings.options, plan.facts)
            # The least of equal units, as for the bare calls: what other work on the machine costs is left out.
            timed = [fastest(lambda j=job, u=unit: ephys.run(j, u), 2) for unit in plan.units]
            results = [result for _, result in timed]
            whole = max(result.bytes_in / 1e6 / spent for spent, result in timed)
            ratio = sum(r.bytes_in for r in results) / sum(r.bytes_out for r in results)
            limit = megabytes / (encode + decode)
            print(
                f"{label:<24} {name:<11} {ratio:6.2f} {megabytes / encode:7.0f} {megabytes / decode:7.0f} {limit:7.0f} "
                f"{whole:11.0f} {whole / limit:8.2f}× {whole * encode / megabytes:15.2f}×"
            )
            shutil.rmtree(out)


def compare_ranks(scratch: Path) -> None:
    """Print one line per number of ranks, for the default codec."""
    samples = np.tile(make_samples(8 * RATE, CHANNELS, 1), (max(1, SECONDS // 8), 1))
    source = write_source(scratch / "in-ranks", samples)
    codec = make_codec("pcodec", samples.dtype, {})
    ordered = turn(np.ascontiguousarray(samples[:RATE]))
    encode, encoded = fastest(lambda: codec.codec.encode(ordered))
    decode, _ = fastest(lambda: codec.codec.decode(encoded))
    limit = ordered.nbytes / 1e6 / (encode + decode)
    cores = len(os.sched_getaffinity(0))
    print(
        f"\nranks: {samples.nbytes / 1e6:.0f} MB, pcodec, {cores} cores; bare codec (encode + decode) {limit:.0f} MB/s"
    )
    print(f"{'ranks':>5} {'wall MB/s':>10} {'MB per CPU s':>13} {'of bare':>8} {'peak MB a rank':>15} {'equal':>6}")
    first: dict[str, bytes] | None = None
    for ranks in (1, 2, 4):
        out = scratch / f"out-ranks-{ranks}"
        mpiexec = Path(sys.executable).parent / "mpiexec"
        launcher = [str(mpiexec if mpiexec.exists() else "mpiexec"), "-n", str(ranks), sys.executable, "-m", "mpi4py"]
        flags = [str(source), str(out), "--kind", "ephys", "--engine", "mpi", "--no-clip"]
        start = time.monotonic()
        subprocess.run([*launcher, "-m", "jobs", "compress", *flags], check=True, stdout=subprocess.DEVNULL)
        wall = time.monotonic() - start
        logs = list(out.with_name(f"{out.name}.state").glob("log/*.jsonl"))
        left = [record for path in logs for record in read_log(path) if record and record["event"] == "left"]
        processor = sum(record["cpu_seconds"] for record in left)
        peak = max(record["peak_bytes"] for record in left) / 1e6
        chunks = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("traces_seg0/*"))}
        first = first or chunks
        speed = samples.nbytes / 1e6 / processor
        print(
            f"{ranks:5} {samples.nbytes / 1e6 / wall:10.0f} {speed:13.0f} {speed / limit:7.2f}× {peak:15.0f} "
            f"{'yes' if chunks == first else 'NO':>6}"
        )
        shutil.rmtree(out)


def main() -> int:
    """Run both comparisons in a scratch directory (TMPDIR chooses where)."""
    with tempfile.TemporaryDirectory(prefix="bench-ephys-") as scratch:
        compare_codecs(Path(scratch))
        compare_ranks(Path(scratch))
    return 0


if __name__ == "__main__":
    main()
