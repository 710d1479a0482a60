"""How much of large files is under way at once."""

from types import SimpleNamespace
from typing import Any

from lading.upload.cache_room import LARGE_BYTES, CacheRoom


def flight(key: str, size: int, *, hashed: bool = False) -> Any:
    return SimpleNamespace(
        item=SimpleNamespace(key=key), task=SimpleNamespace(size=size), digests=SimpleNamespace(done=hashed)
    )


def test_large_files_wait_until_both_have_read_those_before() -> None:
    room = CacheRoom(3 * LARGE_BYTES)
    first, second, third = (flight(name, 2 * LARGE_BYTES) for name in "abc")
    assert room.takes(first, {})
    room.enter(first)
    sending = {"a": first}
    assert not room.takes(second, sending)
    assert room.takes(flight("small", LARGE_BYTES - 1), sending), "small ones pass"
    assert room.takes(flight("fits", LARGE_BYTES), sending)
    assert not room.takes(second, {}), "sent, and its digests are not made"
    first.digests.done = True
    assert not room.takes(second, sending), "hashed, and not sent"
    assert room.takes(second, {})
    room.enter(second)
    assert not room.takes(third, {})


def test_one_always_has_room() -> None:
    room = CacheRoom(LARGE_BYTES)
    assert room.takes(flight("a", 1000 * LARGE_BYTES), {})
