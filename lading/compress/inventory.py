"""What a source holds, item by item, and what becomes of each.

Input: what a data kind takes of its source, and what it names as left out.
Output: facts of the plan, which the terminal and compress.json show.
Invariant: every file of a source is taken, or named with a reason. What is
neither is unaccounted for: the job then ends with exit code 3, never in
silence. What a file holds inside (datasets, pages, series, streams), its
reader lists, and names what it does not take.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.compress.job import walk_files

# Keys of a plan's facts, and of what ``finish`` returns.
KEYS = LEFT_OUT, RECOMPUTED, UNACCOUNTED = ("left_out", "recomputed", "unaccounted")
# Items that a terminal shows, and those that a report lists.
SHOWN, MOST_LISTED = 20, 10_000


@dataclass(frozen=True)
class Item:
    """Something of a source that no output carries as it is.

    path        relative to the source; a directory stands for all that is in it
    inner       what of that file: a dataset, page, series or stream; empty for the whole
    reason      why, as in "left out: <path>: <reason>"
    recomputed  it follows from what is carried: a resolution of a pyramid, for example
    """

    path: str
    inner: str = ""
    reason: str = ""
    recomputed: bool = False

    def encode(self, top: str) -> dict[str, str]:
        """Return the item as JSON values; ``top`` is the source's own name."""
        path = top if self.path == "." else self.path
        name = f"{path}: {self.inner}" if self.inner else path
        return {"item": name, "reason": self.reason}


def account(source: Path, taken: Collection[str], items: Iterable[Item]) -> dict[str, Any]:
    """Return the facts of a plan: ``taken`` are the files that outputs carry, relative to the source."""
    items = list(items)
    named = {item.path for item in items if not item.inner}
    files = frozenset(taken)
    missed = [path for path, _ in walk_files(source) if path not in files and not _below(path, named)]
    return {
        LEFT_OUT: [item.encode(source.name) for item in items if not item.recomputed],
        RECOMPUTED: [item.encode(source.name) for item in items if item.recomputed],
        UNACCOUNTED: missed,
    }


def _below(path: str, named: Collection[str]) -> bool:
    """Tell whether a path, or a directory above it, is named."""
    if "." in named:
        return True
    while path:
        if path in named:
            return True
        path = os.path.dirname(path)
    return False


def describe(left_out: Sequence[Mapping[str, str]], unaccounted: Sequence[str]) -> list[str]:
    """Return the lines for a terminal; the report has all of them."""
    lines = [f"left out: {item['item']}: {item['reason']}" for item in left_out[:SHOWN]]
    if len(left_out) > SHOWN:
        lines.append(f"left out: {len(left_out) - SHOWN} more, which compress.json lists")
    lines += [f"unaccounted for: {path}: no reader of this kind of data knows it" for path in unaccounted[:SHOWN]]
    if len(unaccounted) > SHOWN:
        lines.append(f"unaccounted for: {len(unaccounted) - SHOWN} more, which compress.json lists")
    return lines


def report(planned: Mapping[str, Any], finished: Mapping[str, Any]) -> dict[str, Any]:
    """Return what compress.json says: of the plan's facts, and of what ``finish`` found besides."""
    found: dict[str, Any] = {}
    for name in KEYS:
        rows = [*planned.get(name, ()), *finished.get(name, ())]
        found[name] = rows[:MOST_LISTED]
        found[f"{name}_items"] = len(rows)
    return found
