"""Which Lading this is: what a record says of the program that wrote it.

Input: the checkout that the program runs from, or the file that was put
beside this module when the wheel was built. Output: version, commit, digest of
the lock file, Python and host.
Invariant: never fails, and holds no time: the same code on the same host
describes itself with the same bytes. What cannot be found out is None.
"""

import functools
import hashlib
import json
import os
import platform
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import lading

VERSION = lading.__version__
ROOT = Path(__file__).resolve().parent.parent.parent
BUILT = "_built.json"  # beside this module in a wheel
LOCK = "requirements.txt"
GIT_SECONDS = 20.0
DIRTY, UNCHECKED = "+dirty", "+unchecked"
_COMMIT = re.compile(rf"[0-9a-f]{{40,64}}({re.escape(DIRTY)}|{re.escape(UNCHECKED)})?")
# One process of a launch asks git, and tells the others: thousands of them would read the checkout at once.
_told: list[str | None] = []


def provenance() -> dict[str, str | None]:
    """Return what a record says of its writer, as ``written_by``: version, commit, lock, python and host."""
    return {
        "version": VERSION,
        "commit": find_commit(),
        "lock": find_lock(),
        "python": platform.python_version(),
        "host": socket.gethostname(),
    }


def version_line() -> str:
    """Return what ``--version`` prints."""
    return f"lading {VERSION} (commit {find_commit() or 'unknown'})"


def find_commit() -> str | None:
    """Return the commit that this code is of, with ``+dirty`` when a file of it was changed since.

    ``+unchecked`` says that git was not there to ask whether one was.
    """
    return _told[0] if _told else _find_commit()


def set_commit(commit: str | None) -> None:
    """Believe what another process of this launch found out."""
    _told[:] = [commit]


@functools.cache
def _find_commit() -> str | None:
    if (ROOT / ".git").exists():
        return _ask_git(ROOT) or _read_head(ROOT)
    return _read_built("commit")


@functools.cache
def find_lock() -> str | None:
    """Return the SHA-256 of the lock file, which says what else was installed."""
    try:
        return hashlib.sha256((ROOT / LOCK).read_bytes()).hexdigest() if is_checkout() else _read_built("lock")
    except OSError:
        return None


def is_checkout() -> bool:
    """Tell whether the program runs from its source, and not from where pip installed it."""
    return (ROOT / "pyproject.toml").is_file()


def write_built(directory: Path) -> None:
    """Put what a wheel is built from beside the copy of this module in ``directory``: for the build alone."""
    text = json.dumps({"commit": find_commit(), "lock": find_lock()})
    (directory / BUILT).write_text(text + "\n", encoding="ascii")


def _read_built(name: str) -> str | None:
    try:
        record: Any = json.loads((Path(__file__).parent / BUILT).read_bytes())
        value = record[name]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None


def _ask_git(root: Path) -> str | None:
    # The checkout may belong to a colleague; its code runs already, and nothing of its settings shall.
    git = ["git", "-c", "core.fsmonitor=false", "-c", f"safe.directory={root}", "-C", str(root)]
    # A repository that the environment names, as inside a hook, is another one; and asking writes nothing.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            [*git, "describe", "--always", "--abbrev=40", "--exclude=*", f"--dirty={DIRTY}"],
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return _valid(done.stdout.decode("ascii", "replace").strip())


def _read_head(root: Path) -> str | None:
    """Return the commit as the files of the repository say it, for compute nodes without git."""
    try:
        place = root / ".git"
        if place.is_file():  # a worktree
            place = root / place.read_text().removeprefix("gitdir: ").strip()
        head = (place / "HEAD").read_text().strip()
        if head.startswith("ref: "):
            head = _read_ref(place, head.removeprefix("ref: "))
    except (OSError, ValueError):
        return None
    return _valid(head + UNCHECKED)


def _read_ref(place: Path, name: str) -> str:
    shared = place
    if (place / "commondir").exists():
        shared = place / (place / "commondir").read_text().strip()
    for directory in (place, shared):
        if (directory / name).is_file():
            return (directory / name).read_text().strip()
    for line in (shared / "packed-refs").read_text().splitlines():
        commit, _, known = line.partition(" ")
        if known == name:
            return commit
    return ""


def _valid(text: str) -> str | None:
    return text if _COMMIT.fullmatch(text) else None
