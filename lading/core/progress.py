"""Progress on long work: a live line on a terminal, timed plain lines in a log.

Input: named counters that the caller updates as often as it likes.
Output: text on stderr, at most ten times a second on a terminal and once in
``LOG_SECONDS`` elsewhere.
Invariant: stdout is never touched; an update costs no system call beyond the
clock.
"""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lading.core.safe_streams import printable, protect_streams

if TYPE_CHECKING:
    from rich.live import Live

LOG_SECONDS = 30.0
LIVE_SECONDS = 0.1


def format_bytes(count: float) -> str:
    """Return a byte count with an SI unit, three significant digits."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if abs(count) < 999.5 or unit == "PB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def format_count(count: float) -> str:
    """Return a count with thousands separators."""
    return f"{count:,.0f}"


def counted(number: float, one: str, many: str = "") -> str:
    """Return a count with its noun, and the verb if it comes with one: ``1 object was``, ``2 objects were``.

    ``many`` is ``one`` with an ``s`` where it is not given.
    """
    return f"{format_count(number)} {one if number == 1 else many or one + 's'}"


def format_seconds(seconds: float) -> str:
    """Return a duration as ``4.2 s``, ``3 min 20 s`` or ``5 h 02 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Shows the state of one stage while it runs.

    >>> with Progress("crawl") as progress:
    ...     progress.show("12,000 entries, 3.1 GB, 40 directories waiting")
    """

    def __init__(self, stage: str, *, enabled: bool = True, log_seconds: float = LOG_SECONDS) -> None:
        self._stage = stage
        self._enabled = enabled
        self._log_seconds = log_seconds
        self._started = self._shown = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        # Loading rich takes longer than starting Python does: only for somebody who looks.
        if self._enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            if not console.is_terminal:
                return self
            self._live = Live(console=console, refresh_per_second=10, transient=True)
            self._live.start()
            protect_streams()  # what others print goes above the live line, by a stream of rich's own
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._started

    def due(self) -> bool:
        """Tell whether a ``show`` now would be printed: lets a hot loop skip making its text."""
        interval = LIVE_SECONDS if self._live else self._log_seconds
        return self._enabled and time.monotonic() - self._shown >= interval

    def show(self, text: str) -> None:
        """Show ``text`` with the stage and the time spent, if it is time to."""
        if not self.due():
            return
        self._shown = time.monotonic()
        line = f"{self._stage}  {format_seconds(self.elapsed)}  {text}"
        if self._live:
            from rich.text import Text

            self._live.update(Text(printable(line)))
        else:
            print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
