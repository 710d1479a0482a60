"""What a release holds that is no regular file: counts and the first names, carried from the crawl to every summary.

Input: entries as they are found. Output: counts, JSON, lines for people.
Invariant: the counts are of all, the names are the first in the order of the
tree; a link that leads nowhere or out of the root is also counted as a link.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lading.core.bounded import JsonMembers
from lading.tree.entry_record import DIRECTORY_KIND, LINK_KIND, RecordedEntry

NAMED = 10
NAME_CHARACTERS = 1024  # of one name that travels: longer ones are cut

# The members of the JSON form, each with its text for one and for many.
SENTENCES = {
    "links": ("link", "links"),
    "dangling_links": ("link that leads nowhere", "links that lead nowhere"),
    "outside_links": ("link that leads out of the release", "links that lead out of the release"),
    "empty_directories": ("empty directory", "empty directories"),
    "sockets": ("socket", "sockets"),
    "fifos": ("fifo", "fifos"),
    "devices": ("device", "devices"),
    "unknown": ("entry of an unknown kind", "entries of an unknown kind"),
    "unreadable": ("path that could not be read", "paths that could not be read"),
}
_BY_KIND = {"socket": "sockets", "fifo": "fifos", "device": "devices", "unknown": "unknown"}


@dataclass
class NamedCount:
    """How many there are of a kind, and the first of them."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.names) < NAMED:
            self.names.append(name[:NAME_CHARACTERS])


@dataclass
class NotRegular:
    """The counts by kind; a kind of which there is nothing is absent."""

    kinds: dict[str, NamedCount] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """Count one of a kind of ``SENTENCES``."""
        self.kinds.setdefault(kind, NamedCount()).add(name)

    def add_entry(self, entry: RecordedEntry) -> None:
        """Count an entry that is no regular file and no directory with something in it."""
        if entry.kind == LINK_KIND:
            self.add("links", entry.path)
            if entry.dangling:
                self.add("dangling_links", entry.path)
            if entry.outside:
                self.add("outside_links", entry.path)
        elif entry.kind == DIRECTORY_KIND:
            self.add("empty_directories", entry.path)
        elif entry.kind in _BY_KIND:
            self.add(_BY_KIND[entry.kind], entry.path)

    def with_unreadable(self, paths: Iterable[str], count: int) -> "NotRegular":
        """Return the same with the paths that could not be read, ``count`` in all, in place of those it had."""
        kinds = {kind: found for kind, found in self.kinds.items() if kind != "unreadable"}
        if count:
            kinds["unreadable"] = NamedCount(count, [path[:NAME_CHARACTERS] for path, _ in zip(paths, range(NAMED))])
        return NotRegular(kinds)

    def count(self, kind: str) -> int:
        """Return how many there are of a kind."""
        return self.kinds[kind].count if kind in self.kinds else 0

    def describe(self, show: Callable[[str], str], without: Sequence[str] = ()) -> list[str]:
        """Return a clause for each kind that is there."""
        found = []
        for kind, (one, many) in SENTENCES.items():
            if kind in self.kinds and kind not in without:
                known = self.kinds[kind]
                more = " …" if known.count > len(known.names) else ""
                names = ", ".join(map(show, known.names))
                found.append(f"{known.count:,} {one if known.count == 1 else many}: {names}{more}")
        return found


def encode_not_regular(found: NotRegular) -> dict[str, Any]:
    """Return the JSON form: ``{"links": {"count": 2, "names": […]}, …}``, every kind with its count."""
    return {
        kind: {"count": found.kinds[kind].count, "names": found.kinds[kind].names}
        if kind in found.kinds
        else {"count": 0, "names": []}
        for kind in SENTENCES
    }


def decode_not_regular(value: Any) -> NotRegular:
    """Return the counts of their JSON form; ``ValueError`` when it is none."""
    if not isinstance(value, Mapping):
        raise ValueError("the counts of entries that are not regular files are not an object")
    found = NotRegular()
    for kind in SENTENCES:
        if kind in value:
            take = JsonMembers(value[kind], f"the count of {kind}")
            if count := take.number("count"):
                found.kinds[kind] = NamedCount(count, list(take.texts("names", ()))[:NAMED])
    return found
