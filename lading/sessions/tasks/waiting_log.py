"""The log of source files that wait to be unlinked under another name.

Input: what is about to be renamed. Output: what a killed run left.
Invariant: an entry is durable before its file is renamed, and is forgotten
only when the file is gone or has its name again.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from lading.core.atomic import AppendLog, atomic_write, encode_record, read_log
from lading.core.bounded import JsonMembers
from lading.sessions.provenance import UNSIGNED, Provenance, read_lineages
from lading.sessions.source_tree import ASIDE, HeldSource, SourceTree, Waiting


class WaitingLog:
    """The log of the files that wait to be unlinked: written before one is renamed, gone when none waits.

    left     what waits still; an entry of a source alone says that its directories may be empty
    damaged  a sentence per line that cannot be read: then the log stays as it is
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left: list[Waiting] = []
        self.damaged: list[str] = []

    def read(self, lineages: Path) -> list[Waiting]:
        """Return what a killed run left; ``lineages`` tell what earlier versions did not note."""
        found: list[Waiting] = []
        for number, entry in enumerate(read_log(self.path) if self.path.exists() else (), start=1):
            try:
                found.append(_decode(entry))
            except ValueError as error:
                self.damaged.append(
                    f"{self.path}, line {number} is damaged ({error}): a source file may wait as {ASIDE}… beside its "
                    f"place; rename such files back, then remove {self.path}"
                )
        if any(waiting.held is None for waiting in found):
            tops = {lineage.source: _held(lineage) for lineage in read_lineages(lineages)}
            found = [replace(waiting, held=waiting.held or tops.get(waiting.source)) for waiting in found]
        return found

    def append(self, waiting: Iterable[Waiting]) -> None:
        """Write down, durably, what is about to be renamed."""
        with AppendLog(self.path) as log:
            log.append(map(_encode, waiting))

    def finish(self, bare: Iterable[SourceTree] = ()) -> None:
        """Forget all but what is left, and the sources whose directories are to be removed when they are empty."""
        if self.damaged:
            return
        left = [*self.left, *(Waiting(str(tree.source), "", "", "", tree.held) for tree in bare)]
        if not left:
            self.path.unlink(missing_ok=True)
            return
        with atomic_write(self.path, "wb") as stream:
            stream.writelines(encode_record(_encode(waiting)) for waiting in left)


def _encode(waiting: Waiting) -> dict[str, object]:
    held = {"held": waiting.held._asdict()} if waiting.held else {}
    if not waiting.name:
        return {"source": waiting.source, **held}
    place = {"directory": waiting.directory, "name": waiting.name, "aside": waiting.aside}
    return {"source": waiting.source, **place, **held}


def _decode(entry: Mapping[str, object] | None) -> Waiting:
    if entry is None:
        raise ValueError("its checksum is wrong")
    line = JsonMembers(entry, "it")
    held = None
    if "held" in entry:
        top = line.members("held")
        held = HeldSource(top.text("path"), top.number("device", most=UNSIGNED), top.number("inode", most=UNSIGNED))
    if "name" not in entry:
        return Waiting(line.text("source"), "", "", "", held)
    return Waiting(line.text("source"), line.text("directory"), line.text("name"), line.text("aside"), held)


def _held(lineage: Provenance) -> HeldSource | None:
    """Return the directory in which a lineage's source was read, None where it does not say."""
    if lineage.top is None:
        return None
    single = [record.path for record in lineage.records] == ["."]
    return HeldSource(os.path.dirname(lineage.top.real) if single else lineage.top.real, *lineage.top[1:])
