"""One launch at a time: a lease on a directory, held by a living process.

Input: the directory. Output: the lease file, or a refusal that names the holder.
Invariant: a dead holder never blocks; of two takers one wins, and a lease is
only taken from the holder that was judged.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from lading.bounded import SMALL_BYTES, read_json
from lading.cluster.alive import SILENCE, Heartbeat, Watch
from lading.coordination.exclusive import create_whole, take_away
from lading.coordination.identity import this_host
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
            record = _read(path)
            _wait_for_death(record, path, directory / "holders", job)
            take_away(path, partial(_is, record))
        try:
            yield
        finally:
            if _read(path).get("launch") == launch:
                path.unlink(missing_ok=True)


def _take(path: Path, launch: str, job: str | None) -> bool:
    record = {"launch": launch, "job": job, "host": this_host(), "pid": os.getpid(), "since": time.time()}
    try:
        create_whole(path, json.dumps(record).encode())
    except FileExistsError:
        return False
    return True


def _is(record: Mapping[str, object], path: Path) -> bool:
    return _read(path) == record


def _read(path: Path) -> dict[str, object]:
    try:
        record = read_json(path, SMALL_BYTES)
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _wait_for_death(record: Mapping[str, object], path: Path, holders: Path, job: str | None) -> None:
    """Return when the holder of a record is dead or superseded; raise ``Locked`` as soon as it is seen alive."""
    holder = str(record.get("launch", ""))
    host = str(record.get("host"))
    elsewhere = host != this_host()
    if job is not None and record.get("job") == job and elsewhere:
        return
    # A lease that is just being filled, or torn, is judged by its own age.
    beats = holders / holder if holder and "/" not in holder else path
    watch = Watch(beats.parent)
    seen = _beat(beats)
    started = time.monotonic()
    pause = threading.Event()
    while not watch.dead(beats.name):
        if not elsewhere or _beat(beats) != seen:
            raise Locked(
                f"another run works on {path.parent}: process {record.get('pid')} on {host.partition('/')[0]}; "
                "wait for it, or end it and run this again"
            )
        if time.monotonic() - started > 2 * SILENCE:
            return
        pause.wait(POLL)


def _beat(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
