"""Imaging straight to S3 beside the same to a local directory: ``python -m benchmarks.compress bucket``.

The server is ``rclone serve s3`` on the same cores and the same disk, since what was written is read back: its CPU time
is shown beside ours. Settings by environment: LADING_BENCH_SHAPE (default 256,2048,2048), LADING_BENCH_RANKS (1,2).
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.compress.imaging import LEVELS, compress, digest_tree, size_of
from benchmarks.compress.light_sheet import write_stack
from lading.testing.s3_server import Server, serve
from lading.testing.sink_server import cpu_seconds


def launcher(ranks: int) -> tuple[list[str], list[str]]:
    """Return what starts so many ranks, and the flags that belong to it."""
    if ranks == 1:
        return [sys.executable, "-m"], ["--workers", "1"]
    return [str(Path(sys.executable).parent / "mpiexec"), "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m"], []


def measure(source: Path, top: Path, server: Server, ranks: int, to_bucket: bool) -> str:
    """Compress once, print the line; returns the digest of all files written but the report."""
    launch, flags = launcher(ranks)
    out, state = (server.directory / "bucket" / "x" if to_bucket else top / "out"), top / "state"
    for path in (out, state):
        shutil.rmtree(path, ignore_errors=True)
    os.sync()
    served = cpu_seconds(server.process.pid)
    place = "s3://bucket/x" if to_bucket else str(out)
    seconds, peak, cpu = compress(source, place, launch, ["--state", str(state), *flags])
    served = cpu_seconds(server.process.pid) - served
    size, stored = source.stat().st_size, size_of(out)
    what = f"{'to S3' if to_bucket else 'to a directory'}, {ranks} ranks"
    print(
        f"{what:<26}{size / seconds / 1e6:>8.0f}{stored / seconds / 1e6:>10.0f}"
        f"{cpu:>8.1f}{served:>8.1f}{peak / 1e6:>9.0f}",
        flush=True,
    )
    return digest_tree(out)


def main() -> int:
    """Print the table; exit 1 when the bytes differ."""
    z, y, x = (int(length) for length in os.environ.get("LADING_BENCH_SHAPE", "256,2048,2048").split(","))
    ranks = [int(number) for number in os.environ.get("LADING_BENCH_RANKS", "1,2").split(",")]
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as directory, serve(Path(directory) / "server") as server:
        top = Path(directory)
        os.environ.update(server.environment(), AWS_ENDPOINT_URL=server.endpoint)
        server.make_bucket("bucket")
        source = top / "stack.tif"
        write_stack(source, (z, y, x))
        print(f"light-sheet-like uint16 {z} × {y} × {x}, {z * y * x * 2 / 1e9:.2f} GB, {LEVELS} levels, NGFF 0.5")
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; whole command, a worker's peak memory\n")
        print(f"{'what':<26}{'MB/s':>8}{'out MB/s':>10}{'CPU s':>8}{'server':>8}{'peak MB':>9}")
        digests = {measure(source, top, server, count, to_bucket) for count in ranks for to_bucket in (False, True)}
    print("bytes identical" if len(digests) == 1 else "bytes differ")
    return int(len(digests) > 1)


if __name__ == "__main__":
    sys.exit(main())
