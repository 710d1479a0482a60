"""Counts of what was found, each with the first names: for lines that tell people how much there is, and what.

Input: outcomes by kind. Output: counts as attributes, first names by kind.
Invariant: memory is bounded however many there are.
"""

from dataclasses import dataclass, field

from lading.core.command_line import printable
from lading.core.progress import format_count

SHOWN = 20  # names of each kind


@dataclass
class NamedCounts:
    """To be extended by a dataclass with an integer for each kind; ``named`` has the first names of each."""

    named: dict[str, list[str]] = field(default_factory=dict, kw_only=True)

    def note(self, kind: str, text: str) -> None:
        """Count an outcome of a kind and keep its name if it is among the first."""
        setattr(self, kind, getattr(self, kind) + 1)
        kept = self.named.setdefault(kind, [])
        if len(kept) < SHOWN:
            kept.append(text)

    def describe_kind(self, kind: str, title: str) -> str:
        """Return a line: title, count, first names."""
        number, names = getattr(self, kind), self.named.get(kind, [])
        more = " …" if number > len(names) else ""
        return f"{title}: {format_count(number)}: {', '.join(map(printable, names))}{more}"
