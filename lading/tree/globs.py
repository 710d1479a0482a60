"""Patterns of names to leave out, as tokens that both walks understand.

Input: patterns with ``*`` ``?`` ``[…]`` as in ``fnmatch``. Output: 32-bit
words for the compiled walk, a test for the Python walk.
Invariant: a pattern without a slash is matched against names at any depth,
one with a slash against the path below the root, as ``batch.py --exclude``
does; letters by code point, case matters.
"""

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lading.core.errors import UsageError

# Tokens of names.c: a code point, or one of these; SET is followed by whether
# it is negated, a count and that many pairs (low, high).
ANY, STAR, SET = -1, -2, -3


@dataclass(frozen=True)
class Glob:
    """One pattern: what it is matched against, and its tokens."""

    for_paths: bool
    tokens: tuple[int, ...]


def parse_glob(pattern: str) -> Glob:
    """Return a pattern's tokens; ``UsageError`` when it is empty or a bracket is left open."""
    body = pattern.rstrip("/")
    for_paths = "/" in body
    body = body.removeprefix("./").lstrip("/")
    if not body or "\0" in body:
        raise UsageError(f"--exclude {pattern!r} matches nothing; give a name such as '*.tmp' or a path such as 'a/b'")
    tokens: list[int] = []
    at = 0
    while at < len(body):
        sign = body[at]
        at += 1
        if sign == "*":
            if tokens[-1:] != [STAR]:
                tokens.append(STAR)
        elif sign == "?":
            tokens.append(ANY)
        elif sign == "[":
            end = body.find("]", at + (2 if body[at : at + 1] == "!" else 1))
            if end < 0:
                raise UsageError(f"--exclude {pattern!r} opens a bracket without closing it; for a '[' write '[[]'")
            tokens.extend(_parse_set(body[at:end]))
            at = end + 1
        else:
            tokens.append(ord(sign))
    return Glob(for_paths, tuple(tokens))


def _parse_set(inside: str) -> list[int]:
    negated = inside.startswith("!")
    signs = inside[negated:]
    pairs: list[int] = []
    at = 0
    while at < len(signs):
        low = high = signs[at]
        if signs[at + 1 : at + 2] == "-" and at + 2 < len(signs):
            high = signs[at + 2]
            at += 2
        at += 1
        if low <= high:
            pairs += [ord(low), ord(high)]
    return [SET, negated, len(pairs) // 2, *pairs]


def pack_globs(globs: Sequence[Glob]) -> bytes:
    """Return the patterns as int32 words: length, whether for paths, tokens; one after the other."""
    words = array("i")
    for glob in globs:
        words.extend([len(glob.tokens), glob.for_paths, *glob.tokens])
    return words.tobytes()


def compile_globs(globs: Sequence[Glob]) -> Callable[[str, str], bool] | None:
    """Return a test of (name, path below the root), None without patterns."""
    if not globs:
        return None
    names, paths = (
        re.compile("|".join(_to_regex(glob.tokens) for glob in globs if glob.for_paths is wanted) or r"(?!)", re.DOTALL)
        for wanted in (False, True)
    )
    return lambda name, path: bool(names.fullmatch(name) or paths.fullmatch(path))


def _to_regex(tokens: Sequence[int]) -> str:
    parts: list[str] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token == STAR:
            parts.append(".*")
        elif token == ANY:
            parts.append(".")
        elif token == SET:
            negated, count = tokens[at], tokens[at + 1]
            pairs = tokens[at + 2 : at + 2 + 2 * count]
            at += 2 + 2 * count
            ranges = "".join(f"\\U{pairs[i]:08x}-\\U{pairs[i + 1]:08x}" for i in range(0, len(pairs), 2))
            parts.append((f"[{'^' if negated else ''}{ranges}]") if ranges else ("." if negated else "(?!)"))
        else:
            parts.append(f"\\U{token:08x}")
    return f"(?:{''.join(parts)})"
