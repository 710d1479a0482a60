"""Share the spans of a scrub among ranks: the first hands them out, all read.

Input: jobs, a reader of each rank. Output: results, all at the first rank.
Invariant: a span is handed out once, and its result is taken once. A rank that dies or falls silent costs the run what
it had in hand: those spans are not in the log, so the next run reads them.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lading.core.errors import LadingError
from lading.parallel.messages import RankMessages
from lading.verification.span_reader import SpanJob, SpanReader, SpanResult

SILENT_SECONDS = 120.0
ALIVE_SECONDS = 10.0
REST_SECONDS = 0.2
LOOK_SECONDS = 0.005


@dataclass
class _Peer:
    """What the first rank knows of another."""

    heard: float
    held: int = 0
    told: bool = False  # that nothing is left
    failed: str = ""

    @property
    def done(self) -> bool:
        return bool(self.failed) or (self.told and self.held == 0)


class SpanSharing:
    """The first rank's side; without ``post`` it reads alone."""

    def __init__(
        self,
        jobs: Iterator[SpanJob],
        reader: SpanReader,
        post: RankMessages | None,
        take: Callable[[list[SpanResult]], None],
    ) -> None:
        self._jobs, self._reader, self._post, self._take = jobs, reader, post, take
        self._over = False
        now = time.monotonic()
        self._peers = {rank: _Peer(now) for rank in range(1, post.size)} if post else {}

    def run(self) -> list[str]:
        """Read everything; returns a sentence on each rank that did not come to its end."""
        while True:
            moved = self._fill()
            results = list(self._reader.finished())
            moved |= self._hear(results) or bool(results)
            if results:
                self._take(results)
            if self._over and self._reader.idle and all(peer.done for peer in self._peers.values()):
                return [f"rank {rank}: {peer.failed}" for rank, peer in self._peers.items() if peer.failed]
            self._handle_exit()
            if not moved:
                self._reader.rest(LOOK_SECONDS if self._peers else REST_SECONDS)

    def _next(self) -> SpanJob | None:
        job = next(self._jobs, None)
        self._over |= job is None
        return job

    def _fill(self) -> bool:
        moved = False
        while not self._over and not self._reader.full and (job := self._next()) is not None:
            self._reader.submit(job)
            moved = True
        return moved

    def _hear(self, results: list[SpanResult]) -> bool:
        moved = False
        while self._post is not None and (mail := self._post.receive()) is not None:
            rank, (kind, value) = mail
            peer, moved = self._peers[rank], True
            peer.heard = time.monotonic()
            if kind == "want":
                job = None if self._over else self._next()
                peer.held += job is not None
                peer.told = job is None
                self._post.send(rank, ("end", None) if job is None else ("job", job))
            elif kind == "done" and not peer.failed:
                peer.held -= 1
                results.append(value)
            elif kind == "failed":
                peer.failed = value
        return moved

    def _handle_exit(self) -> None:
        """Count a rank that said nothing for long as failed."""
        for peer in self._peers.values():
            if not peer.done and time.monotonic() - peer.heard > SILENT_SECONDS:
                peer.failed = f"it printed nothing for {SILENT_SECONDS:.0f} s; what it read is not counted"


def begin_peers(post: RankMessages, place: Any) -> None:
    """Tell the other ranks where the objects are."""
    for rank in range(1, post.size):
        post.send(rank, ("begin", place))


def end_peers(post: RankMessages, seconds: float = SILENT_SECONDS) -> None:
    """Let the other ranks leave, and hear all that they sent: MPI ends in an error where a message was not taken."""
    staying = set(range(1, post.size))
    for rank in staying:
        post.send(rank, ("leave", None))
    until = time.monotonic() + seconds
    while (staying or post.unsent()) and time.monotonic() < until:
        if (mail := post.receive()) is None:
            time.sleep(LOOK_SECONDS)
        elif mail[1][0] == "bye":
            staying.discard(mail[0])


class SpanServant:
    """Another rank's side: reads what the first hands out, until it lets all leave."""

    def __init__(self, post: RankMessages) -> None:
        self._post = post
        self._left = False
        self._asked = self._over = False

    def await_place(self) -> Any:
        """Return what the first rank tells of the place; None when there is nothing to do."""
        _, (kind, value) = self._post.expect(0.05)
        self._left = kind == "leave"
        return None if self._left else value

    def serve(self, reader: SpanReader) -> None:
        """Read until the first rank lets go."""
        said = 0.0
        try:
            while not self._left:
                if not self._over and not self._asked and not reader.full:
                    self._post.send(0, ("want", None))
                    self._asked = True
                self._hear(reader)
                for result in reader.finished():
                    self._post.send(0, ("done", result))
                if time.monotonic() - said > ALIVE_SECONDS:
                    self._post.send(0, ("alive", None))
                    said = time.monotonic()
                time.sleep(LOOK_SECONDS)
        except LadingError as error:
            self._post.send(0, ("failed", str(error)))
            raise

    def _hear(self, reader: SpanReader) -> None:
        while (mail := self._post.receive()) is not None:
            _, (kind, value) = mail
            self._left = kind == "leave"
            if self._left:
                return
            if kind == "job":
                reader.submit(value)
            self._asked, self._over = False, kind == "end"

    def leave(self) -> None:
        """Wait until the first rank lets go, and say that this one has."""
        while not self._left:
            self._left = self._post.expect(0.05)[1][0] == "leave"
        self._post.send(0, ("bye", None))
        until = time.monotonic() + ALIVE_SECONDS
        while self._post.unsent() and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
