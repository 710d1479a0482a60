"""How fast one process is when sending costs nothing: ``python -m benchmarks.upload.null_engine [COUNT]``.

Everything but the sending is real: files are looked at and read, keys are listed, digests compared, records written.
A sink server holds the objects from the start, and is not asked for them before the engine "sent" them. What is
printed is the bound that the interpreter sets to one process, however fast the network is.
"""

import cProfile
import os
import pstats
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import peers
from benchmarks.figures import note
from benchmarks.upload.__main__ import link_files, make_plan
from lading.cli import upload
from lading.core.command_line import run_main
from lading.objectstore.client import ObjectStore
from lading.objectstore.object_info import ObjectInfo
from lading.testing import sink_server
from lading.upload.engines.base import TransferOutcome, UploadTask

SIZE = 10_000


class NullEngine:
    """Says of each task at once that it is sent."""

    name = "null"
    atomic_create = False
    window = 512
    moved = None

    def __init__(self) -> None:
        self._ready: list[TransferOutcome] = []
        self.sent: set[str] = set()

    @property
    def outstanding(self) -> int:
        """Return how many tasks have no outcome yet."""
        return len(self._ready)

    def accepts(self, task: UploadTask) -> str | None:
        """Take every task."""
        return None

    def submit(self, task: UploadTask) -> None:
        """Take one task."""
        self.sent.add(task.key)
        self._ready.append(TransferOutcome(task, answered=True))

    def poll(self, timeout: float) -> list[TransferOutcome]:
        """Return all that was submitted."""
        found, self._ready = self._ready, []
        return found

    def drain(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Forget what is there."""
        self._ready.clear()


def measure(directory: Path, count: int, *, profile: bool) -> None:
    """Upload ``count`` objects of 10 kB by an engine that sends nothing, and print what it took."""
    root, plan = directory / "data", directory / "plan"
    with (directory / "preload").open("w") as preload:
        for path, size, digest in link_files(directory, root, count, SIZE):
            preload.write(f"{size} {digest} null/{path}\n")
    make_plan(root, plan, 10**12)
    engine, find = NullEngine(), ObjectStore.find

    def find_sent(store: ObjectStore, keys: Iterable[str], **more: Any) -> dict[str, ObjectInfo]:
        wanted = [key for key in keys if key in engine.sent]
        return find(store, wanted, **more) if wanted else {}

    with (
        sink_server.serve(directory, preload=directory / "preload") as sink,
        mock.patch.dict(os.environ, sink.environment()),
        mock.patch("lading.upload.upload_run.start_engine", return_value=engine),
        mock.patch.object(ObjectStore, "find", find_sent),
    ):
        words = [root, "--bucket", "s3://null", "--batch", plan / "batch.json", "--endpoint-url", sink.endpoint]
        watch = cProfile.Profile()
        began, spent = time.monotonic(), time.process_time()
        if profile:
            watch.enable()
        code = run_main(upload.main, [*map(str, words), "--max-workers", "32"])  # as each command is run
        watch.disable()
        took, spent = time.monotonic() - began, time.process_time() - spent
    if code:
        sys.exit(f"ended with {code}")
    print(
        f"{count:,} objects of {SIZE:,} bytes by an engine that costs nothing: "
        f"{took:.1f} s, {count / took:,.0f} objects/s; "
        f"{spent:.1f} s CPU, {spent / count * 1e6:.0f} µs an object "
        f"(load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    )
    note(f"{count:,} objects by an engine that costs nothing", count / took, "objects/s", "more")
    note(f"{count:,} objects by an engine that costs nothing: CPU", spent / count * 1e6, "µs an object")
    if profile:
        pstats.Stats(watch).sort_stats("tottime").print_stats(35)


def main() -> None:
    """Run it; ``--profile`` adds where the main thread's time goes."""
    words = sys.argv[1:]
    profile = "--profile" in words
    count = int(next((word for word in words if word.isdigit()), "200000"))
    if peers.lacks_compiler("the sink server"):
        return
    directory = Path(tempfile.mkdtemp(prefix="bench-null-"))
    try:
        measure(directory, count, profile=profile)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
