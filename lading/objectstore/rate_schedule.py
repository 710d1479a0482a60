"""Bytes per second by time of day, as a person writes them.

Input: ``200M`` or ``08:00,200M;19:00,off``. Output: the rate at a minute of the day.
Invariant: times are of the machine's local clock; the last entry of a day holds until the first of the next.
"""

import re
from dataclasses import dataclass

from lading.core.command_line import parse_size
from lading.core.errors import UsageError

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_OFF = ("off", "none", "unlimited")


@dataclass(frozen=True)
class RateSchedule:
    """Rates by time of day: (minute of the day, bytes per second or None for no cap), in order of time."""

    entries: tuple[tuple[int, int | None], ...]

    def rate(self, minute: int) -> int | None:
        """Return the rate that holds at a minute of the day: of the latest entry, yesterday's last before the first."""
        current = self.entries[-1][1]
        for start, rate in self.entries:
            if start > minute:
                break
            current = rate
        return current

    def share(self, count: int) -> "RateSchedule":
        """Return the part of one of ``count`` processes that send at once."""
        return RateSchedule(tuple((start, rate and max(1, rate // count)) for start, rate in self.entries))


def parse_bandwidth(text: str) -> RateSchedule:
    """Return the timetable of ``200M`` (bytes per second) or ``08:00,200M;19:00,off``."""
    if "," not in text and ";" not in text:
        return RateSchedule(((0, _rate(text)),))
    entries = []
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        when, comma, rate = part.partition(",")
        match = _TIME.fullmatch(when.strip())
        if not match or not comma:
            raise UsageError(f"{part!r} is not an entry of a rate schedule; write it like 08:00,200M;19:00,off")
        entries.append((int(match[1]) * 60 + int(match[2]), _rate(rate)))
    if not entries or len({start for start, _ in entries}) != len(entries):
        raise UsageError(f"{text!r} is not a rate schedule; write each time once, like 08:00,200M;19:00,off")
    return RateSchedule(tuple(sorted(entries)))


def _rate(text: str) -> int | None:
    if text.strip().lower() in _OFF:
        return None
    rate = parse_size(text)
    if rate < 1000:
        raise UsageError(f"{text!r} is too low a rate; give bytes per second from 1k on, like 200M")
    return rate
