"""Bytes that each engine has the disk read for each byte sent: ``python -m benchmarks.upload --only cold``.

Input: files whose pages are dropped from memory before each command. Output: for each engine the bytes that the kernel
fetched from the disk for the command and all of its children, as a multiple of the files' pages.
Invariant: before a command no page of its files is in memory (mincore), so less than 1 cannot be; the peer that
``s5cmd cp`` is shows what the machine itself adds.
"""

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PAGE = mmap.PAGESIZE
# With little memory: more than fits is under way for longer than a page is kept, as on a slow network.
SCARCE_SET, SCARCE_RATE = ("8 x 150 MB", 8, 150_000_000), "100M"
# One set for each way that files go: many in a line, one in a request, and in parts; each as (name, count, bytes).
COLD_SETS = (("20,000 x 10 kB", 20_000, 10_000), ("1,000 x 1 MB", 1_000, 1_000_000), ("4 x 512 MB", 4, 512_000_000))
Command = Callable[[str], tuple[Sequence[str], Callable[[], None]]]


def files_below(root: Path) -> Iterator[Path]:
    """Yield every file."""
    return (path for path in sorted(root.rglob("*")) if path.is_file())


def drop_pages(root: Path) -> tuple[int, int]:
    """Write what is dirty, and have the kernel forget all pages; returns how many there were, and how many stayed."""
    pages = stayed = 0
    for path in files_below(root):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            size = os.fstat(descriptor).st_size
            pages += -(-size // PAGE)
            stayed += count_cached(descriptor, size)
        finally:
            os.close(descriptor)
    return pages, stayed


def count_cached(descriptor: int, size: int) -> int:
    """Return how many pages of a file are in memory (mincore)."""
    if not size:
        return 0
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    place = library.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if place in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        held = (ctypes.c_ubyte * -(-size // PAGE))()
        if library.mincore(ctypes.c_void_p(place), ctypes.c_size_t(size), held):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return sum(one & 1 for one in held)
    finally:
        library.munmap(ctypes.c_void_p(place), ctypes.c_size_t(size))


@contextmanager
def limited_memory(limit: int | None) -> Iterator[Callable[[], None] | None]:
    """Make a control group of so many bytes; yields what a child calls to be in it. Root alone can do that."""
    if limit is None:
        yield None
        return
    first = Path("/sys/fs/cgroup/memory")
    place = (first if first.is_dir() else first.parent) / f"lading-bench-{os.getpid()}"
    name = "memory.limit_in_bytes" if first.is_dir() else "memory.max"
    try:
        place.mkdir()
        (place / name).write_text(str(limit))
    except OSError as error:
        sys.exit(f"error: --memory needs a control group of its own, as root: {error}")
    try:
        yield lambda: (place / "cgroup.procs").write_text(str(os.getpid())) and None
    finally:
        place.rmdir()


def fetched_bytes() -> int:
    """Return what the kernel fetched from disks for this process and every child that was waited for (proc(5), io)."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


def measure_reads(
    root: Path,
    commands: Mapping[str, Command],
    environment: Mapping[str, str],
    directory: Path,
    enter: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Run each command over cold files; returns bytes fetched for each byte. ``enter``: called in the child first."""
    ratios = {}
    for place, (name, make) in enumerate(commands.items()):
        command, before = make(f"cold{place}")
        before()
        pages, stayed = drop_pages(root)
        if stayed > pages // 100:
            sys.exit(f"{root} is not on a disk, or something holds its pages: {stayed:,} of {pages:,} are in memory")
        held = fetched_bytes()
        with (directory / "bench.log").open("wb") as log:
            done = subprocess.run(
                command,
                cwd=directory,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                check=False,
                preexec_fn=enter,
            )
        if done.returncode:
            sys.exit(f"{name} ended with {done.returncode}:\n{(directory / 'bench.log').read_text()[-2000:]}")
        ratios[name] = (fetched_bytes() - held) / (pages * PAGE)
        print(f"{name:26}{pages * PAGE / 1e6:10.0f} MB{ratios[name]:8.3f}", flush=True)
    return ratios
