"""Imaging beside its peers in one run: bare codec calls, and dask's plane-chunk graph with separate pyramid passes.

The stack lies in memory (``/dev/shm``), since what the kernel dropped of it would be read from the disk again; what is
written goes to TMPDIR and is flushed.
Settings by environment: LADING_BENCH_SHAPE (default 512,2048,2048: 4.3 GB), LADING_BENCH_RANKS (default 1,2,4).
"""

import hashlib
import json
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

import numcodecs
import numpy as np
import zarr

from benchmarks.compress.light_sheet import write_stack
from benchmarks.figures import note
from lading.compress.imaging.pyramid import mean_halved

LEVELS = 4
CHUNK = (64, 256, 256)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds (the machine may be shared) and result."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def bare_codec(path: Path, offset: int, shape: tuple[int, int, int], chunk: tuple[int, int, int]) -> dict[str, float]:
    """CPU seconds for every chunk of the stack: read, encode; decode and compare; mean."""
    numcodecs.blosc.use_threads = False
    codec = numcodecs.Blosc("zstd", 1, numcodecs.Blosc.SHUFFLE)
    source = np.memmap(path, np.uint16, "r", offset, shape)
    spent = dict.fromkeys(("read", "encode", "decode", "compare", "mean"), 0.0)
    stored = 0
    block, back = np.empty(chunk, np.uint16), np.empty(chunk, np.uint16)
    for z in range(0, shape[0], chunk[0]):
        for y in range(0, shape[1], chunk[1]):
            for x in range(0, shape[2], chunk[2]):
                box = source[z : z + chunk[0], y : y + chunk[1], x : x + chunk[2]]
                spent["read"] += timed(lambda box=box: np.copyto(block, box))[0]
                seconds, code = timed(lambda: codec.encode(block))
                spent["encode"] += seconds
                stored += len(code)
                spent["decode"] += timed(lambda code=code: codec.decode(code, out=back))[0]
                spent["compare"] += timed(lambda: np.array_equal(back, block))[0]
                spent["mean"] += timed(lambda: mean_halved(block))[0]
    return spent | {"stored": stored}


def compress(source: Path, out: Path | str, launch: list[str], flags: list[str]) -> tuple[float, int, float]:
    """Run the command; returns wall seconds, the largest worker's peak memory in bytes, CPU seconds."""
    command = [*launch, "jobs", "compress", str(source), str(out), "--kind", "imaging", "--levels", str(LEVELS), *flags]
    # A small process between: what this one has mapped would count as its children's memory until they exec.
    code = (
        "import json, resource, subprocess, sys, time; started = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([time.perf_counter() - started, used.ru_maxrss * 1024, used.ru_utime + used.ru_stime]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *command], check=True, capture_output=True, cwd=Path(__file__).parents[2]
    )
    seconds, peak, cpu = json.loads(result.stdout)
    return seconds, peak, cpu


def dask_way(path: Path, offset: int, shape: tuple[int, int, int], out: Path, workers: int) -> tuple[float, float]:
    """The reference's graph: plane chunks, rechunked, stored; each level read back, coarsened, stored. Wall, CPU."""
    import dask.array as da
    from distributed import Client, LocalCluster

    def plane(z: int) -> np.ndarray:
        count = shape[1] * shape[2]
        data = np.fromfile(path, np.uint16, count, offset=offset + z * count * 2)
        return data.reshape(1, *shape[1:])

    def planes(block_info: Any = None) -> np.ndarray:
        return plane(block_info[None]["chunk-location"][0])

    codec = numcodecs.Blosc("zstd", 1, numcodecs.Blosc.SHUFFLE)
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(lambda: setattr(numcodecs.blosc, "use_threads", False))
        ticks = sum(client.run(_cpu).values())
        started = time.perf_counter()
        image = da.map_blocks(planes, chunks=((1,) * shape[0], (shape[1],), (shape[2],)), dtype=np.uint16)
        for level in range(LEVELS):
            if level:
                before = da.from_zarr(str(out / str(level - 1)))
                mean = da.coarsen(np.mean, before, {0: 2, 1: 2, 2: 2}, trim_excess=True)
                image = da.floor(mean + 0.5).astype(np.uint16)
            array = zarr.create_array(
                str(out / str(level)), shape=image.shape, chunks=CHUNK, dtype="u2", zarr_format=2, compressors=codec,
                fill_value=0, chunk_key_encoding={"name": "v2", "separator": "/"},
            )  # fmt: skip
            da.store(image.rechunk(CHUNK), array, lock=False)
        seconds = time.perf_counter() - started
        return seconds, sum(client.run(_cpu).values()) - ticks


def _cpu() -> float:
    return time.process_time()


def digest_tree(top: Path) -> str:
    """One digest over the names and bytes of all files but the report."""
    state = hashlib.sha256()
    for path in sorted(top.rglob("*")):
        if path.is_file() and path.name != "compress.json":
            state.update(str(path.relative_to(top)).encode() + hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def size_of(top: Path) -> int:
    """Return the bytes of all files below ``top``."""
    return sum(path.stat().st_size for path in top.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Row:
    """One line of the table: wall and CPU seconds, stored bytes, largest worker's memory (0: not measured)."""

    what: str
    seconds: float
    cpu: float
    stored: int
    peak: int = 0

    def show(self, size: int) -> "Row":
        """Print the line for ``size`` bytes of source."""
        print(
            f"{self.what:<46}{size / self.seconds / 1e6:>8.0f}{self.cpu:>8.1f}{size / self.cpu / 1e6:>10.0f}"
            f"{size / self.stored:>8.2f}{f'{self.peak / 1e6:.0f}' if self.peak else '':>9}",
            flush=True,
        )
        note(f"imaging, {self.what}", size / self.seconds / 1e6, "MB/s", "more")
        note(f"imaging, {self.what}: CPU", self.cpu, "CPU s")
        return self


def run_ours(source: Path, top: Path, version: str, ranks: int) -> tuple[Row, str]:
    """Run the whole command over ``ranks``; returns the line and the digest of all files written."""
    out = top / f"out{version}"
    shutil.rmtree(out, ignore_errors=True)
    mpi = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m"]
    alone = [sys.executable, "-m"]
    flags = ["--ngff", version] + (["--workers", "1"] if ranks == 1 else [])
    seconds, peak, cpu = compress(source, out, alone if ranks == 1 else mpi, flags)
    shutil.rmtree(top / f"out{version}.state", ignore_errors=True)
    return Row(f"ours, NGFF {version}, {ranks} ranks, whole command", seconds, cpu, size_of(out), peak), digest_tree(
        out
    )


def same_voxels(ours: Path, theirs: Path) -> bool:
    """Compare two arrays slab by slab."""
    mine, other = zarr.open_array(ours, mode="r"), zarr.open_array(theirs, mode="r")
    return all(np.array_equal(other[at : at + 64], mine[0, 0, at : at + 64]) for at in range(0, other.shape[0], 64))


def main() -> int:
    """Print the table; exit 1 when outputs differ."""
    z, y, x = (int(length) for length in os.environ.get("LADING_BENCH_SHAPE", "512,2048,2048").split(","))
    ranks = [int(number) for number in os.environ.get("LADING_BENCH_RANKS", "1,2,4").split(",")]
    shape, size, cores = (z, y, x), z * y * x * 2, os.cpu_count() or 1
    faults: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="lading-bench-") as directory,
        tempfile.TemporaryDirectory(prefix="lading-bench-", dir="/dev/shm") as memory,
    ):
        top = Path(directory)
        source = Path(memory) / "stack.tif"
        offset = write_stack(source, shape)
        os.sync()
        print(f"light-sheet-like uint16 {z} × {y} × {x}, {size / 1e9:.2f} GB, {LEVELS} levels, zstd 1 shuffle")
        print(f"{cores} cores, load {os.getloadavg()[0]:.1f}; memory is of the largest worker; ratio: all levels\n")
        print(f"{'what':<46}{'MB/s':>8}{'CPU s':>8}{'per core':>10}{'ratio':>8}{'peak MB':>9}")
        # First what everybody shares: the page cache is warm from here on.
        bare = bare_codec(source, offset, shape, CHUNK)
        stored = int(bare["stored"])
        encode = Row("bare encode calls, level 0", bare["encode"], bare["encode"], stored).show(size)
        # All levels hold 1 + 1/8 + 1/64 … = 8/7 of level 0; the source is read twice, the mean made twice.
        codec = (bare["encode"] + bare["decode"]) * 8 / 7
        work = codec + 2 * bare["read"] + bare["compare"] + 2 * bare["mean"] * 8 / 7
        whole = Row("bare calls for all that ours does", work, work, stored * 8 // 7).show(size)
        rows: dict[tuple[str, int], Row] = {}
        for version in ("0.5", "0.4"):
            digests = set()
            for count in ranks:
                row, digest = run_ours(source, top, version, count)
                rows[version, count] = row.show(size)
                digests.add(digest)
            if len(digests) > 1:
                faults.append(f"NGFF {version}: bytes differ between {ranks} ranks")
        workers = min(2, cores)
        seconds, cpu = dask_way(source, offset, shape, top / "dask", workers)
        dask = Row(f"dask store + coarsen, format 2, {workers} workers", seconds, cpu, size_of(top / "dask")).show(size)
        print()
        for version in ("0.5", "0.4"):
            row = rows.get((version, workers)) or rows[version, ranks[-1]]
            print(
                f"NGFF {version}: {dask.seconds / row.seconds:.2f} × dask by wall, {dask.cpu / row.cpu:.2f} × by CPU; "
                f"{whole.cpu / row.cpu:.2f} of bare calls for all of it, {encode.cpu / row.cpu:.2f} of encoding alone"
            )
            note(f"imaging, NGFF {version}: times dask", dask.seconds / row.seconds, better="more")
            note(f"imaging, NGFF {version}: times dask by CPU", dask.cpu / row.cpu, better="more")
            note(f"imaging, NGFF {version}: of bare calls by CPU", whole.cpu / row.cpu, better="more")
            for level in range(LEVELS):
                if not same_voxels(top / f"out{version}" / "stack.ome.zarr" / str(level), top / "dask" / str(level)):
                    faults.append(f"NGFF {version}: level {level} differs from dask's")
    print("\n".join(faults) or f"bytes identical over {ranks} ranks; every level equal to dask's, voxel by voxel")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
