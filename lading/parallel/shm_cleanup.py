"""Shared memory that killed MPI ranks left behind.

Input: /dev/shm. Output: the names that were removed.
Invariant: only files of this user, of MPICH's naming, older than a minute and
mapped or held open by no process; none where processes of other containers
that use the same memory cannot be seen. Left there, they make a later start fail
with a misleading "out of memory" once a job id comes round again.
"""

import os
import time
from pathlib import Path

from lading.core.identity import sees_all_processes

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - not a temporary file of ours
PREFIX = "mpich_shm_"
YOUNGEST = 60.0


def remove_stale_segments(directory: Path = SHARED_MEMORY, youngest: float = YOUNGEST) -> list[str]:
    """Remove stale MPICH segments of this user; return their names."""
    if directory == SHARED_MEMORY and not sees_all_processes():
        return []
    now = time.time()
    stale = {}
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return []
    for entry in entries:
        if not entry.name.startswith(PREFIX):
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if status.st_uid == os.getuid() and now - status.st_mtime > youngest:
            stale[entry.name] = Path(entry.path)
    if not stale:
        return []
    used = _names_in_use()
    removed = []
    for name, path in sorted(stale.items()):
        if name not in used:
            path.unlink(missing_ok=True)
            removed.append(name)
    return removed


def _names_in_use() -> set[str]:
    """Return the MPICH segment names that any process of this machine has mapped or open."""
    used = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            for line in (process / "maps").read_text(errors="replace").splitlines():
                if PREFIX in line:
                    used.add(line.rpartition("/")[2].removesuffix(" (deleted)"))
            for link in (process / "fd").iterdir():
                target = os.readlink(link)
                if PREFIX in target:
                    used.add(target.rpartition("/")[2].removesuffix(" (deleted)"))
        except OSError:
            # Another user's process, or one that just ended: neither maps files of ours.
            continue
    return used
