"""How long what is left will take: seconds for each object and seconds for each byte, both learned while it runs.

Input: what was done in each span of time, in objects and bytes. Output: the
seconds that so many objects and bytes more will take.
Invariant: many small files say little of bytes and few huge ones little of
objects; what was not seen yet counts as much slower than its default as what
was seen is than its own.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from lading.journal.records import DONE

# Until something else is measured: what one run with 32 workers does at 50 ms a request, over 1 Gb/s.
OBJECTS_PER_SECOND = 500
BYTES_PER_SECOND = 125 * 10**6
# So many seconds of measurement weigh as much as the defaults do, and as that both are slower by the same factor.
DOUBT_SECONDS = 0.5
ALIKE_SECONDS = 2.0
HALF_LIFE = 60.0
# Of a request without its body: line, headers and signature.
REQUEST_BYTES = 1500


class Pace:
    """Learns how seconds depend on objects and bytes: least squares over spans, older ones weigh less."""

    def __init__(self) -> None:
        # In units of the defaults: sums of object², object·byte, byte², object·second, byte·second.
        self._oo = self._ob = self._bb = self._os = self._bs = 0.0
        self.seconds = 0.0  # learned from

    def learn(self, seconds: float, objects: float, size: float) -> None:
        """Take in a span in which ``objects`` and ``size`` bytes were done."""
        self.seconds += seconds
        keep = 0.5 ** (seconds / max(HALF_LIFE, self.seconds / 3))
        x, y = max(0.0, objects) / OBJECTS_PER_SECOND, max(0.0, size) / BYTES_PER_SECOND
        self._oo = keep * self._oo + x * x
        self._ob = keep * self._ob + x * y
        self._bb = keep * self._bb + y * y
        self._os = keep * self._os + x * seconds
        self._bs = keep * self._bs + y * seconds

    def left(self, objects: int, size: int) -> float:
        """Return the seconds that so many objects of so many bytes together will take."""
        by_object, by_byte = self._factors()
        return by_object * objects / OBJECTS_PER_SECOND + by_byte * size / BYTES_PER_SECOND

    def _factors(self) -> tuple[float, float]:
        """Return how many times slower than the defaults an object and a byte are."""
        doubt, alike = DOUBT_SECONDS**2, ALIKE_SECONDS**2
        oo, ob, bb = self._oo + doubt + alike, self._ob - alike, self._bb + doubt + alike
        right_o, right_b = self._os + doubt, self._bs + doubt
        determinant = oo * bb - ob * ob
        by_object = (right_o * bb - right_b * ob) / determinant
        by_byte = (right_b * oo - right_o * ob) / determinant
        # Neither takes less than no time: then the other alone explains it.
        if by_object < 0:
            return 0.0, right_b / bb
        if by_byte < 0:
            return right_o / oo, 0.0
        return by_object, by_byte


class ChildBytes:
    """Counts the bytes that the children of this process wrote, or read where they write past the kernel's count.

    A huge file shows in no other number before it is sent: what carries it tells only of its end.
    """

    def __init__(self) -> None:
        self._counts: dict[int, tuple[int, int]] = {}

    def count(self, sent: int) -> int:
        """Return the bytes so far; ``sent`` is what they are known to have sent."""
        for pid in _children():
            with suppress(OSError, ValueError, KeyError):
                lines = Path(f"/proc/{pid}/io").read_text().splitlines()
                fields = dict(line.split(": ") for line in lines)
                self._counts[pid] = int(fields["wchar"]), int(fields["rchar"])
        wrote = sum(wrote for wrote, _ in self._counts.values())
        # Some send by calls that are no writes; their reads are those of the files.
        return wrote if wrote >= sent // 2 else sum(read for _, read in self._counts.values())


def _children() -> Iterator[int]:
    with suppress(OSError):
        for task in os.listdir("/proc/self/task"):
            with suppress(OSError):
                yield from map(int, Path(f"/proc/self/task/{task}/children").read_text().split())


class OtherRanks:
    """Counts what the other ranks of a launch proved, by what they appended to their journals."""

    def __init__(self, journals: Iterable[Path]) -> None:
        self._places = dict.fromkeys(journals, 0)
        self.objects = self.bytes = 0

    def look(self) -> None:
        """Take in what was appended since."""
        for path, place in self._places.items():
            with suppress(OSError), path.open("rb") as stream:
                stream.seek(place)
                block = stream.read()
                whole = block[: block.rfind(b"\n") + 1]
                self._places[path] = place + len(whole)
                for line in whole.splitlines():
                    self._take(line)

    def _take(self, line: bytes) -> None:
        if not line.startswith(b'{"kind":"%s"' % DONE.encode()):
            return
        at = line.find(b'"size":') + 7
        digits = line[at : at + 20].split(b",", 1)[0]
        if digits.isdigit():
            self.objects += 1
            self.bytes += int(digits)
