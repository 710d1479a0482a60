"""Whether the pages of a listing lead anywhere, without holding what was seen.

Input: of each page where the next one begins, and its last entry. Output:
whether to follow.
Invariant: a listing that leads in a circle is left in some three times its
length, whatever the circle's; one that shows nothing, after ``EMPTY`` pages.
"""

from dataclasses import dataclass, field

EMPTY = 1000  # pages in a row that hold nothing: of keys that are deleted, say


@dataclass
class Circle:
    """Notices a sequence that repeats itself: holds one member, renewed ever more rarely (Brent, BIT 20, 1980)."""

    _held: object = None
    _steps: int = 0
    _most: int = 1

    def closes(self, member: object) -> bool:
        """Take the next member; True where it is one that was there before."""
        if member == self._held:
            return True
        self._steps += 1
        if self._steps == self._most:
            self._held, self._steps, self._most = member, 0, 2 * self._most
        return False


@dataclass
class Trail:
    """The way through one listing."""

    _marks: Circle = field(default_factory=Circle)
    _entries: Circle = field(default_factory=Circle)
    _empty: int = 0

    def leads_on(self, mark: object, last: object | None) -> bool:
        """Tell whether a page may be followed: by ``mark``, where the next begins; ``last`` is its last entry or None.

        No listing has an entry twice but for a circle, even under marks that are new each time.
        """
        self._empty = 0 if last is not None else self._empty + 1
        circles = self._marks.closes(mark) or (last is not None and self._entries.closes(last))
        return not circles and self._empty < EMPTY
