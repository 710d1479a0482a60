"""Who a process is, so that others can tell whether it lives.

Input: nothing, or a process id. Output: names that two processes share
exactly when they can see each other's process ids.
Invariant: a process id means something only within one boot of one kernel
and one PID namespace. A container often has the name and the kernel of its
host, but ids of its own.
"""

import functools
import hashlib
import os
import re
import socket
import time
from pathlib import Path

# A file of a process that cannot be seen from here is abandoned when nothing wrote to it for so long.
STALE_SECONDS = 86_400.0
_TAG = re.compile(r"([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]+")


def this_host() -> str:
    """Return ``hostname/boot id/PID namespace`` of this process, or what ``LADING_HOST`` says.

    The variable is for containers that hide ``/proc``: processes with the
    same value judge each other by process id, others by their heartbeat.
    """
    forced = os.environ.get("LADING_HOST")
    if forced:
        return forced
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # nothing to go by: a name of our own, so that only the heartbeat counts
        return f"{socket.gethostname()}/{os.getpid()}/?"
    return f"{socket.gethostname()}/{boot}/{namespace}"


def start_ticks(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot, or None when it does not run (a zombie does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything; state and start time follow it as fields 3 and 22 (proc(5)).
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def owner_tag() -> str:
    """Return what this process marks the names of its unfinished files with: ``host-pid-start``."""
    return _owner_tag(os.getpid())


@functools.lru_cache(maxsize=1)  # a forked process has another id
def _owner_tag(pid: int) -> str:
    return f"{_host_tag(this_host())}-{pid}-{start_ticks(pid) or 0}"


def _host_tag(host: str) -> str:
    return hashlib.blake2b(host.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


def is_abandoned(tag: str, written: float) -> bool:
    """Tell whether the process that made an unfinished file is gone.

    ``tag`` is ``owner_tag() + "-" + hex digits``; of anything else nothing is
    known and the answer is no. ``written`` is the file's mtime in seconds.
    """
    match = _TAG.fullmatch(tag)
    if match is None:
        return False
    host, pid, started = match.groups()
    if host == _host_tag(this_host()):
        return start_ticks(int(pid)) != int(started)
    return time.time() - written > STALE_SECONDS
