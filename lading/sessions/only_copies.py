"""The objects of a job that carry deleted sources, which no later upload may replace by others.

Input: the log ``removed.jsonl`` of a job's state. Output: SHA-256 values by
the path of their object below the prefix.
Invariant: an object is noted, durably, before the first of its sources goes,
and is taken back only while all of them are known to be there. A log that
cannot be read whole says nothing: whoever asks is refused.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from lading.core.atomic import AppendLog, read_log
from lading.core.bounded import JsonMembers
from lading.core.errors import UsageError


class OnlyCopies:
    """The log of one job, as it is when it is first asked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: dict[str, dict[str, None]] | None = None

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield (path below the prefix, SHA-256); ``UsageError`` for a damaged log."""
        # The last deletion of a path rests on the newest object.
        yield from ((path, next(reversed(contents))) for path, contents in self._read().items())

    def add(self, objects: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Note objects that are to be the only copies; returns those that were not noted so far."""
        held = self._read()
        new = [(path, sha256) for path, sha256 in objects if sha256 not in held.get(path, ())]
        self._append(new, released=False)
        for path, sha256 in new:
            held.setdefault(path, {})[sha256] = None
        return new

    def has(self, path: str, sha256: str | None) -> bool:
        """Tell whether an object is noted."""
        return sha256 in self._read().get(path, ())

    def release(self, objects: Iterable[tuple[str, str]]) -> None:
        """Take back what was noted of objects all of whose sources are there."""
        held = self._read()
        old = [(path, sha256) for path, sha256 in objects if sha256 in held.get(path, ())]
        self._append(old, released=True)
        for path, sha256 in old:
            _discard(held, path, sha256)

    def _append(self, objects: Iterable[tuple[str, str]], *, released: bool) -> None:
        more = {"released": True} if released else {}
        records = [{"path": path, "sha256": sha256, **more} for path, sha256 in objects]
        if records:
            with AppendLog(self._path) as log:
                log.append(records)

    def _read(self) -> dict[str, dict[str, None]]:
        if self._held is None:
            self._held = {}
            for number, entry in enumerate(read_log(self._path) if self._path.exists() else (), start=1):
                try:
                    if entry is None:
                        raise ValueError("its checksum is wrong")
                    line = JsonMembers(entry, "it")
                    path, sha256 = line.text("path"), line.text("sha256")
                    released = line.flag("released", False)
                except ValueError as error:
                    self._held = None
                    raise UsageError(
                        f"{self._path}, line {number} is damaged ({error}), so it is not known which objects are the "
                        "only "
                        "copies of deleted sources, and none may be replaced; put the file back from a copy, or "
                        "upload under another subject, date or platform"
                    ) from error
                if released:
                    _discard(self._held, path, sha256)
                else:
                    contents = self._held.setdefault(path, {})
                    contents.pop(sha256, None)
                    contents[sha256] = None
        return self._held


def _discard(held: dict[str, dict[str, None]], path: str, sha256: str) -> None:
    contents = held.get(path, {})
    contents.pop(sha256, None)
    if not contents:
        held.pop(path, None)
