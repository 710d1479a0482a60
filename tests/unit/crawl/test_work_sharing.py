"""How often a rank looks at its mail: at once while there is something to say, ever less often while there is not."""

from typing import Any

from lading.crawl.work_sharing import LONGEST_PAUSE, PAUSE, WorkSharing


class QuietWalk:
    """Is at work for ever, and keeps the pauses it was asked for."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def wait(self, seconds: float, /) -> bool:
        if seconds:
            self.pauses.append(seconds)
        return False

    def state(self) -> tuple[int, int, int, int]:
        return 0, 0, 5, 0

    def take(self, most: int, /) -> list[tuple[int, bytes, int, bytes]]:
        return [(0, b"directory", 1, b"")] if most else []

    def give(self, rank: int, number: int, path: bytes, depth: int, ancestors: bytes, /) -> None: ...


class Mail:
    """A letter box whose letters come at certain looks."""

    rank, size = 1, 2

    def __init__(self, letters: dict[int, Any]) -> None:
        self.letters, self.looks, self.sent = letters, 0, list[Any]()

    def send(self, rank: int, message: Any) -> None:
        self.sent.append((rank, message[0]))

    def receive(self) -> tuple[int, Any] | None:
        self.looks += 1
        found = self.letters.pop(self.looks, None)
        return found and (0, found)

    def unsent(self) -> int:
        return 0


def test_looks_become_rarer_while_nothing_is_said() -> None:
    walk, mail = QuietWalk(), Mail({30: ("lend", 0), 60: ("over", None)})
    WorkSharing(walk, mail, workers=1).run(lambda _: None)
    assert (0, "work") in mail.sent
    # The look that brings a letter is followed by one more at once, which ends the round.
    answered = walk.pauses.index(PAUSE, 1)
    assert walk.pauses[0] == PAUSE
    assert walk.pauses[:answered] == sorted(walk.pauses[:answered])
    assert walk.pauses[answered - 1] == max(walk.pauses) == LONGEST_PAUSE
    assert 28 <= answered <= 30
    assert walk.pauses[-1] == LONGEST_PAUSE
