"""Who a process is, so that others can tell whether it lives.

Input: nothing, or what a process wrote of itself. Output: its record; whether
it runs, doesn't run, or cannot be seen from here.
Invariant: a process id means something only within one boot of one kernel
and one PID namespace. A container often has the name and the kernel of its
host, but ids of its own. A process that may live but cannot be looked at
counts as not seen, never as dead.
"""

import functools
import hashlib
import json
import os
import re
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lading.core.bounded import SMALL_BYTES, is_name, parse_json, read_bounded

# A file of a process that cannot be seen from here is abandoned when nothing wrote to it for so long.
STALE_SECONDS = 86_400.0
_TAG = re.compile(r"([0-9a-f]{8})-(\d{1,9})-(\d{1,19})-[0-9a-f]+")
_INITIAL_TIME = 0xEFFFFFFA  # inode of the time namespace that a machine boots with (proc_ns.h)
_INITIAL_PIDS = 0xEFFFFFFC  # of its PID namespace
_HIGHEST_PID = 2**22  # of Linux


@dataclass(frozen=True)
class ProcessId:
    """One process, as it stands in heartbeats, locks and claims.

    writer   its name among those of one directory, and that of its heartbeat
    host     ``this_host`` where it runs
    pid      its process id there
    started  its start in clock ticks since boot; 0 where it could not be found out
    group    the run that it belongs to: the processes of one launch share it
    """

    writer: str
    host: str
    pid: int
    started: int
    group: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "a process that cannot be named"
        return f"process {self.pid} on {self.host.split('/')[0]}" if self.host else f"process {self.pid}"

    def runs(self) -> bool | None:
        """Tell whether it runs; None when that cannot be seen from here."""
        return _runs(self.pid, self.started) if self.host == this_host() else None

    def encode(self) -> bytes:
        """Return its record as it lies in a file."""
        return json.dumps(asdict(self)).encode()


NOBODY = ProcessId("", "", 0, 0)


def this_process(writer: str = "", group: str = "") -> ProcessId:
    """Return the record of this process; without a name it gets one that no other process has."""
    pid = os.getpid()
    name = writer or f"{socket.gethostname().split('.')[0]}-{pid}-{time.time_ns():x}"
    return ProcessId(name, this_host(), pid, start_ticks(pid) or 0, group)


def decode_process(content: bytes) -> ProcessId:
    """Return the process of a record, of an earlier edition too; ``NOBODY`` when it is torn or of another form.

    Earlier editions wrote ``launch`` for the name, ``machine`` for the host,
    ``start`` for the start, ``job`` for the group, and hosts without a PID namespace: their
    processes are on no host of today, so only their heartbeats count.
    """
    try:
        record = parse_json(content)
    except ValueError:
        return NOBODY
    if not isinstance(record, dict):
        return NOBODY
    writer = record.get("writer", record.get("launch", ""))
    host = record.get("host", record.get("machine", ""))
    pid, started = _number(record.get("pid")), _number(record.get("started", record.get("start", 0)))
    group = record.get("group", record.get("job") or "")
    if not (_is_text(writer) and _is_text(host) and _is_text(group)) or pid is None:
        return NOBODY
    return ProcessId(str(writer), str(host), pid, started or 0, str(group))


def _is_text(value: Any) -> bool:
    return type(value) is str and len(value) <= 1000 and is_name(value)


def _number(value: Any) -> int | None:
    """Return a whole number; earlier editions wrote some as text."""
    if type(value) is str and len(value) <= 20 and value.isascii() and value.isdigit():
        return int(value)
    return value if type(value) is int and 0 <= value < 2**63 else None


def read_process(path: Path) -> ProcessId | None:
    """Return whose file this is, None when it is gone."""
    try:
        return decode_process(read_bounded(path, SMALL_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return NOBODY


def this_host() -> str:
    """Return ``hostname/boot id/PID namespace`` of this process, or what ``LADING_HOST`` says.

    Processes with the same value judge each other by process id, others by
    their heartbeats. Where ``/proc`` is hidden or shows another namespace, as
    under ``unshare --pid`` alone, process ids cannot be looked up: the host is
    then one of this process alone.
    """
    return os.environ.get("LADING_HOST") or _this_host(os.getpid())


@functools.lru_cache(maxsize=1)  # a forked process asks again
def _this_host(pid: int) -> str:
    name = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        if os.readlink("/proc/self") != str(pid):
            raise OSError("/proc is of another PID namespace")
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
        clock = _inode("/proc/self/ns/time")
    except OSError:
        return f"{name}/{pid}-{secrets.token_hex(8)}/?"
    # Starts of processes are told in a time namespace's own ticks.
    return f"{name}/{boot}/{namespace}" + (f"-{clock}" if clock not in (None, _INITIAL_TIME) else "")


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:  # Linux before 5.6 has no time namespaces
        return None


def start_ticks(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot, or None when it does not run (a zombie does not)."""
    state, ticks = _look(pid)
    return ticks if state not in ("", "Z", "X") else None


def sees_all_processes() -> bool:
    """Tell whether ``/proc`` shows every process of this machine, those of containers too, and not one's own alone."""
    try:
        return os.readlink("/proc/self") == str(os.getpid()) and _inode("/proc/self/ns/pid") == _INITIAL_PIDS
    except OSError:
        return False


def _look(pid: int) -> tuple[str, int]:
    """Return state and start of a process; an empty state when it is not to be seen."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "", 0
    # The name in parentheses may hold anything; state, threads and start follow it as fields 3, 20 and 22 (proc(5)).
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20:
        return "", 0
    # Of a killed process the first thread may be gone while another one still writes.
    return "R" if fields[0] == "Z" and int(fields[17]) > 1 else fields[0], int(fields[19])


def _runs(pid: int, started: int) -> bool | None:
    if not 0 < pid <= _HIGHEST_PID:
        return False if pid > 0 else None
    state, ticks = _look(pid)
    if state in ("Z", "X"):
        return False
    if state:
        return ticks == started if started else None
    # Mounted with hidepid, /proc shows nobody else's processes; the kernel tells all the same that there is one.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return None
    return None if _look(pid)[0] == "" else _runs(pid, started)


def owner_tag() -> str:
    """Return what this process marks the names of its unfinished files with: ``host-pid-start``."""
    pid = os.getpid()
    return f"{_host_tag(this_host())}-{pid}-{_own_start(pid)}"


@functools.lru_cache(maxsize=1)
def _own_start(pid: int) -> int:
    return start_ticks(pid) or 0


@functools.lru_cache(maxsize=8)
def _host_tag(host: str) -> str:
    return hashlib.blake2b(host.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


def owner_runs(tag: str) -> bool | None:
    """Tell whether the process runs whose ``owner_tag``, ``-`` and hex digits this is; None when that is not known."""
    match = _TAG.fullmatch(tag)
    if match is None or match[1] != _host_tag(this_host()):
        return None
    return _runs(int(match[2]), int(match[3]))


def is_abandoned(tag: str, written: float) -> bool:
    """Tell whether the process that made an unfinished file is gone.

    ``tag`` is ``owner_tag() + "-" + hex digits``; of anything else nothing is
    known and the answer is no. ``written`` is the file's mtime in seconds.
    """
    if _TAG.fullmatch(tag) is None:
        return False
    runs = owner_runs(tag)
    return not runs if runs is not None else time.time() - written > STALE_SECONDS
