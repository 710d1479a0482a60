"""One launch at a time: a lease on a directory, held by a living process.

Input: the directory. Output: the lease file, or a refusal that names the holder.
Invariant: a dead holder never blocks; of two takers one wins. Even two
holders would only do work twice: the lease saves time, markers save data.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lading.cluster.alive import SILENCE, Heartbeat, Watch
from lading.errors import Locked

POLL = 1.0


@contextmanager
def lease(directory: Path, launch: str, job: str | None = None) -> Iterator[None]:
    """Hold ``directory/lease`` for the block.

    ``launch`` names this holder, ``job`` its scheduler job: a later launch of
    the same job supersedes one on another machine without waiting. Raises
    ``Locked`` (exit 75) while another holder lives; a holder on another
    machine is watched for up to a minute before it counts as dead.
    """
    path = directory / "lease"
    with Heartbeat(directory / "holders", launch):
        while not _take(path, launch, job):
            _wait_for_death(path, directory / "holders", job)
            stale = path.with_name(f"lease.{launch}")
            try:
                os.rename(path, stale)
            except FileNotFoundError:
                continue
            stale.unlink()
        try:
            yield
        finally:
            if _read(path).get("launch") == launch:
                path.unlink(missing_ok=True)


def _take(path: Path, launch: str, job: str | None) -> bool:
    record = {"launch": launch, "job": job, "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    # A link appears whole, unlike a file that is created first and filled later.
    filled = path.with_name(f"lease.{launch}.new")
    filled.write_text(json.dumps(record))
    try:
        os.link(filled, path)
    except FileExistsError:
        return False
    finally:
        filled.unlink()
    return True


def _read(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _wait_for_death(path: Path, holders: Path, job: str | None) -> None:
    """Return when the holder is dead or superseded; raise ``Locked`` as soon as it is seen alive."""
    record = _read(path)
    holder = str(record.get("launch", ""))
    elsewhere = record.get("host") != socket.gethostname()
    if not holder or (job is not None and record.get("job") == job and elsewhere):
        return
    watch = Watch(holders)
    seen = (holders / holder).stat().st_mtime_ns if (holders / holder).exists() else 0
    started = time.monotonic()
    pause = threading.Event()
    while not watch.dead(holder):
        beat = (holders / holder).stat().st_mtime_ns if (holders / holder).exists() else 0
        if not elsewhere or beat != seen:
            raise Locked(
                f"another run works on {path.parent}: process {record.get('pid')} on {record.get('host')}; "
                "wait for it, or end it and run this again"
            )
        if time.monotonic() - started > 2 * SILENCE:
            return
        pause.wait(POLL)
