"""Who writes the shards of an image: Lading's own code, zarr or tensorstore. ``python -m benchmarks.compress writers``.

Each writes the same four shards of a light-sheet-like slab into a directory in memory, without flushing, then reads and
decodes them. Speeds are MB of voxels per second of CPU time of all threads; of some turns the least time counts.
"""

import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.compress.light_sheet import planes
from lading.compress.destination import DirectoryDestination
from lading.compress.imaging import ome_zarr as omezarr
from lading.compress.imaging.ome_zarr import OmeZarrLayout, array_documents
from lading.compress.imaging.volume import Array, Shape, Window
from lading.compress.job import new_working_name

SHAPE: Shape = (1, 1, 128, 512, 2048)
LAYOUT = OmeZarrLayout("0.5", (64, 128, 128), (128, 512, 512), "blosc-zstd", 1)
TURNS = 5
WINDOWS = [Window(0, 0, (0, 128), (0, 512), (x, x + 512)) for x in range(0, 2048, 512)]
# What writes the slab below a directory, and what reads it into memory.
Writer = tuple[Callable[[Path, Array], None], Callable[[Path, Array], None]]


def ours(by_zarr: bool) -> Writer:
    """Return Lading's way, or zarr's, which serves arrays that are not Blosc alone."""

    def within(top: Path, work: Callable[[DirectoryDestination], None]) -> None:
        known = omezarr.read_document
        try:
            if by_zarr:
                omezarr.read_document = lambda name, content: None
            with DirectoryDestination(top, new_working_name()) as place:
                work(place)
        finally:
            omezarr.read_document = known

    def write(top: Path, slab: Array) -> None:
        def work(place: DirectoryDestination) -> None:
            for window in WINDOWS:
                omezarr.write_box(place, "a", window, slab[window.slices[2:]])

        within(top, work)

    def read(top: Path, found: Array) -> None:
        def work(place: DirectoryDestination) -> None:
            shard = np.empty(LAYOUT.shard, np.uint16)
            for window in WINDOWS:
                found[window.slices[2:]] = omezarr.read_box(place, "a", window, shard)

        within(top, work)

    return write, read


def by_tensorstore() -> Writer:
    """Return tensorstore's way, one thread at a time; ``ImportError`` where it is not installed."""
    import tensorstore

    limits = {name: {"limit": 1} for name in ("data_copy_concurrency", "file_io_concurrency")}

    def opened(top: Path):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{top / 'a'}/"}, "context": limits}
        return tensorstore.open(spec, open=True).result()

    def write(top: Path, slab: Array) -> None:
        array = opened(top)
        for window in WINDOWS:
            array[window.slices].write(slab[window.slices[2:]]).result()

    def read(top: Path, found: Array) -> None:
        array = opened(top)
        for window in WINDOWS:
            found[window.slices[2:]] = array[window.slices].read().result()

    return write, read


def cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> int:
    """Print the table; exit 1 when somebody reads other voxels."""
    slab = np.stack([plane for plane, _ in zip(planes((128, 512, 2048)), range(128))])
    omezarr.prepare_process()
    writers: dict[str, Writer] = {"Lading": ours(False), "zarr": ours(True)}
    try:
        writers["tensorstore"] = by_tensorstore()
    except ImportError as error:
        peers.tell("tensorstore", str(error))
    print(f"{slab.nbytes / 1e6:.0f} MB of uint16, {LAYOUT.codec_text}, shards of 128 × 512 × 512; MB per CPU second\n")
    print(f"{'writer':<14}{'write':>8}{'read':>8}{'stored MB':>12}")
    wrong, found = False, np.empty_like(slab)
    with tempfile.TemporaryDirectory(prefix="lading-bench-", dir="/dev/shm") as directory:
        least = {name: [math.inf, math.inf] for name in writers}
        for _ in range(TURNS):
            for name, (write, read) in writers.items():
                top = Path(directory) / name
                with DirectoryDestination(top, new_working_name()) as place:
                    omezarr.place_documents(place, "a", array_documents(LAYOUT, SHAPE, "uint16"))
                least[name][0] = min(least[name][0], cpu(lambda w=write, t=top: w(t, slab)))
                found[...] = 0
                least[name][1] = min(least[name][1], cpu(lambda r=read, t=top: r(t, found)))
                wrong |= not np.array_equal(found, slab)
        for name, (write, read) in least.items():
            stored = sum(path.stat().st_size for path in (Path(directory) / name).rglob("c/**/*") if path.is_file())
            print(f"{name:<14}{slab.nbytes / write / 1e6:>8.0f}{slab.nbytes / read / 1e6:>8.0f}{stored / 1e6:>12.1f}")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
