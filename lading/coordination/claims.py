"""Who works on what, and what is done: claims and markers as files, nothing else.

Input: a list of items with ids, the directory that all workers see.
Output: one marker file per finished item, one claim per group of items, in
directories of at most a few hundred entries each.
Invariant: a marker appears by rename, after the work it stands for; whatever
dies, an item without a marker is done again and one with a marker is not.
A claim only saves double work: two workers on one item cost time, not data.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lading.coordination.heartbeat import Heartbeat, LivenessMonitor
from lading.coordination.lock import Lock, LockLink
from lading.core import extras
from lading.core.atomic import atomic_write
from lading.core.bounded import JsonMembers, read_json, read_object
from lading.core.errors import LadingError, UsageError
from lading.core.identity import ProcessId

# A group that has killed this many workers is given up: it would kill the rest too.
MOST_DEATHS = 3
# Beyond this many items a claim, one dead worker would leave too much to redo.
LARGEST_GROUP = 64
# Enough claims per rank that the slowest worker holds nobody up (compare docs/explanation/decisions.md).
CLAIMS_PER_RANK = 40
EVERYTHING = "*"


class ClaimItem(Protocol):
    """What can be claimed: ``after`` names the items that must be done before, ``("*",)`` all the others."""

    @property
    def id(self) -> str:
        """Unique and stable over restarts."""

    @property
    def cost(self) -> int:
        """Any measure of work; the largest start first."""

    @property
    def after(self) -> tuple[str, ...]:
        """Ids of items that must have markers first."""


@dataclass(frozen=True)
class ClaimGroup:
    """Items of one depth that are claimed together."""

    name: str
    items: tuple[ClaimItem, ...]
    after: tuple[str, ...]


def file_name(item_id: str) -> str:
    """Return ``ab/abcdef…``: a name for any id, spread over 256 directories."""
    name = hashlib.sha256(item_id.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return f"{name[:2]}/{name}"


def group_items(items: Sequence[ClaimItem], ranks: int) -> list[ClaimGroup]:
    """Return groups, largest items first, shallow before deep; at least 40 a rank if the items allow."""
    size = max(1, min(LARGEST_GROUP, len(items) // (CLAIMS_PER_RANK * max(1, ranks))))
    by_depth: dict[int, list[ClaimItem]] = {}
    depths = measure_depths(items)
    for item in items:
        by_depth.setdefault(depths[item.id], []).append(item)
    groups = []
    for depth in sorted(by_depth):
        ordered = sorted(by_depth[depth], key=lambda item: (-item.cost, item.id))
        for start in range(0, len(ordered), size):
            members = tuple(ordered[start : start + size])
            needs = tuple(dict.fromkeys(need for item in members for need in item.after))
            groups.append(ClaimGroup(file_name("\n".join(item.id for item in members)), members, needs))
    return groups


def measure_depths(items: Sequence[ClaimItem]) -> dict[str, int]:
    """Return how many items deep each one's dependencies go; ``ValueError`` on a cycle or an unknown id."""
    after = {item.id: item.after for item in items}
    if len(after) != len(items):
        raise ValueError("two items share an id")
    depths: dict[str, int] = {}
    last = [item.id for item in items if EVERYTHING in item.after]
    for start in after:
        if start in last:
            continue
        stack = [start]
        while stack:
            current = stack[-1]
            missing = [need for need in after[current] if need not in depths]
            if current in depths or not missing:
                depths.setdefault(current, 1 + max((depths[need] for need in after[current]), default=-1))
                stack.pop()
            elif len(stack) > len(after):
                raise ValueError(f"item {current!r} depends on itself")
            else:
                stack.extend(missing)
    deepest = max(depths.values(), default=-1)
    depths.update(dict.fromkeys(last, deepest + 1))
    return depths


class CompletionRecords:
    """One file per finished item under ``directory``, holding its record."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, item_id: str) -> Path:
        """Return where the marker of an item lies."""
        return self._directory / f"{file_name(item_id)}.json"

    def mark(self, item_id: str, record: Mapping[str, Any]) -> None:
        """Declare an item done, durably."""
        path = self.path(item_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as stream:
            json.dump({"item": item_id, **record}, stream, separators=(",", ":"))
            stream.write("\n")

    def names(self) -> set[str]:
        """Return the ``file_name`` of every done item, by listing directories only."""
        return set(list_names(self._directory, ".json"))

    def read(self, item_id: str) -> dict[str, Any] | None:
        """Return an item's record, or None when it is not done (a damaged marker is none)."""
        try:
            record = read_json(self.path(item_id))
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) and record.get("item") == item_id else None

    def drop(self, item_id: str) -> None:
        """Take a marker back: its item will be done again."""
        self.path(item_id).unlink(missing_ok=True)


def list_names(directory: Path, suffix: str = "") -> Iterator[str]:
    """Yield ``ab/name`` for every file two levels down whose name ends in ``suffix``, without it."""
    try:
        shelves = sorted(entry.name for entry in os.scandir(directory) if len(entry.name) == 2)
    except FileNotFoundError:
        return
    for shelf in shelves:
        for entry in os.scandir(directory / shelf):
            if entry.name.endswith(suffix) and not entry.name.startswith("."):
                yield f"{shelf}/{entry.name.removesuffix(suffix)}"


def _failure(path: Path) -> dict[str, Any]:
    """Return the record of a failure; of a damaged one, that it failed."""
    try:
        record = read_object(path)
        take = JsonMembers(record)
        take.text("item"), take.text("message"), take.number("exit_code")
    except ValueError as error:
        return {"item": path.stem, "message": f"{path} is damaged: {error}", "exit_code": 1}
    return record


class Claims:
    """Locks by name in one directory, all taken by one process: ``name`` may have a folder before it."""

    def __init__(self, directory: Path, process: ProcessId, monitor: LivenessMonitor) -> None:
        self._directory, self._process, self._monitor = directory, process, monitor
        self._record = process.encode()
        self._held: dict[str, Lock] = {}

    def take(self, name: str) -> bool:
        """Take a name, from a dead process too; False while a living one has it."""
        if name in self._held:
            return True
        while True:
            link = self.look(name)
            if link is not None and self.is_held(link):
                return False
            if self.follow(name, link):
                return True

    def look(self, name: str) -> LockLink | None:
        """Return the claim on a name; its ``depth`` is how many processes died with it."""
        return Lock(self._directory / name, self._record).look()

    def is_held(self, link: LockLink) -> bool:
        """Tell whether a claim is one of this process or of another one that lives."""
        return link.process.writer == self._process.writer or self._lived(link)

    def follow(self, name: str, link: LockLink | None) -> bool:
        """Take a name from the dead process of a claim; False when another one was quicker."""
        lock = Lock(self._directory / name, self._record)
        (self._directory / name).parent.mkdir(parents=True, exist_ok=True)
        if not lock.follow(link):
            return False
        self._held[name] = lock
        return True

    def release(self, name: str) -> None:
        """Give a name back, unless another process took it from this one, which seemed dead."""
        lock = self._held.pop(name, None)
        if lock is not None:
            lock.release()

    def release_all(self) -> None:
        """Give back all that is held."""
        for name in list(self._held):
            self.release(name)

    def _lived(self, link: LockLink) -> bool:
        return self._monitor.lived(link.process) if link.process.writer else link.lives(self._monitor)


class LaunchState:
    """The claims and failures of one launch; a later launch starts with none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def alive(self) -> Path:
        """The directory of the workers' heartbeats."""
        return self.directory / "alive"

    def claims(self, worker: Heartbeat) -> Claims:
        """Return the claims on groups, taken by one worker."""
        monitor = LivenessMonitor(self.alive, worker)
        return Claims(self.directory / "claims", worker.process, monitor)

    def claimed(self) -> set[str]:
        """Return the groups that anybody claimed, by listing directories only."""
        return {name.partition(".")[0] for name in list_names(self.directory / "claims")}

    def fail(self, item_id: str, message: str, exit_code: int) -> None:
        """Record why an item cannot be done in this attempt."""
        path = self.directory / "failed" / f"{file_name(item_id)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as stream:
            json.dump({"item": item_id, "message": message, "exit_code": exit_code}, stream)

    def failed_names(self) -> set[str]:
        """Return the ``file_name`` of every failed item."""
        return set(list_names(self.directory / "failed", ".json"))

    def failures(self) -> list[dict[str, Any]]:
        """Return every failure: item, message, exit_code."""
        return [_failure(self.directory / "failed" / f"{name}.json") for name in sorted(self.failed_names())]

    def stop(self, reason: str) -> None:
        """Ask all workers to end after their present item; the first reason given stays."""
        try:
            descriptor = os.open(self.directory / "stop", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except (FileExistsError, OSError):
            # On a full disk the reason may not fit; the failure of the item itself stops its worker.
            return
        try:
            os.write(descriptor, reason.encode("utf-8"))
        except OSError:
            pass
        finally:
            os.close(descriptor)

    def stopped(self) -> str | None:
        """Return why the attempt was stopped, or None."""
        try:
            return (self.directory / "stop").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def reset(self) -> None:
        """Forget all claims and failures; no worker may be running."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)


def disk_is_full(error: BaseException) -> bool:
    """Tell whether an error, or one it was raised from, means no space or quota left."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def explain(error: BaseException) -> tuple[str, int]:
    """Return (sentence, exit code) of whatever an item raised."""
    if isinstance(error, LadingError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        return f"{error.strerror or error}{where}", 1
    if isinstance(error, ImportError) and (sentence := extras.explain(error)):
        return sentence, UsageError.exit_code
    return f"{type(error).__name__}: {error}", 1


def unfinished(items: Iterable[ClaimItem], done: set[str], name: Callable[[str], str] = file_name) -> list[ClaimItem]:
    """Return the items without a marker."""
    return [item for item in items if name(item.id) not in done]
