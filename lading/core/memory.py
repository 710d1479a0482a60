"""How much memory this process may use: what the machine has free, and what its control groups allow.

Input: ``/proc`` and ``/sys/fs/cgroup``. Output: bytes.
Invariant: what cannot be read bounds nothing; a job of a batch system is bounded by its own limit, not by its node's.
"""

from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def usable_bytes() -> int:
    """Return the memory that is free or holds nothing but cached files, within the limits of this process's groups."""
    return min([_available(), *_limits()])


def _available() -> int:
    try:
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 1 << 62


def _limits() -> Iterator[int]:
    """Yield the limits of the groups that this process is in, and of those above them (cgroups(7))."""
    try:
        lines = (PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if number == "0" and not kinds:
            roots, name = [GROUPS, GROUPS / "unified"], "memory.max"
        elif "memory" in kinds.split(","):
            roots, name = [GROUPS / "memory"], "memory.limit_in_bytes"
        else:
            continue
        for root in roots:
            place = root / path.lstrip("/")
            while place.is_relative_to(root):
                try:
                    yield int((place / name).read_text())
                except (OSError, ValueError):  # there is none here, or it is "max"
                    pass
                if place == root:
                    break
                place = place.parent
