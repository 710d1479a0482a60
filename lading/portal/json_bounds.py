"""What a JSON value of a request may be before anything else looks at it.

Input: parsed JSON. Output: nothing, or ``ValueError`` with the sentence.
Invariant: what passes can be walked recursively, kept as text, and sent back
as JSON: not too deep, no number beyond JSON, no half of a surrogate pair.
"""

import math
from typing import Any

DEEPEST = 20


def check_value(value: Any) -> None:
    """Raise ``ValueError`` for what could not be kept or sent back."""
    level, depth = [value], 0
    while level:
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} deep")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError("NaN and Infinity are not JSON; leave the value out or write it as text")
            elif isinstance(item, str) and any("\ud800" <= sign <= "\udfff" or sign == "\0" for sign in item):
                raise ValueError("text with a NUL or half of a surrogate pair; write it in UTF-8")
        level, depth = below, depth + 1
