"""Two sorted sequences side by side.

Input: two iterables, each in strictly rising order of its key. Output: pairs, either side of which may be absent.
Invariant: one item of each is held, however long they are.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def full_join(
    left: Iterable[A], right: Iterable[B], left_key: Callable[[A], bytes], right_key: Callable[[B], bytes]
) -> Iterator[tuple[A | None, B | None]]:
    """Yield the items of ``left`` beside those of ``right`` that have the same key; None where one lacks it."""
    lefts, rights = iter(left), iter(right)
    a, b = next(lefts, None), next(rights, None)
    a_key = left_key(a) if a is not None else b""
    b_key = right_key(b) if b is not None else b""
    while a is not None or b is not None:
        takes_a = b is None or (a is not None and a_key <= b_key)
        takes_b = a is None or (b is not None and b_key <= a_key)
        yield (a if takes_a else None, b if takes_b else None)
        if takes_a and (a := next(lefts, None)) is not None:
            a_key = left_key(a)
        if takes_b and (b := next(rights, None)) is not None:
            b_key = right_key(b)
