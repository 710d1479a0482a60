"""Checksum files as they are found in releases: which they are, and what their lines say.

Input: names and bytes. Output: a ``SumClaim`` for each file that is named, and the lines that name none.
Invariant: a line is understood as ``sha256sum -c`` and ``md5sum -c`` understand it: GNU, with a binary star, with the
escapes of a leading backslash, BSD's tagged form, with either end of line. Paths are relative to the file's directory.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

ALGORITHMS = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
# What the pass computes of every file; the others would mean to read it again.
COMPUTED = ("md5", "sha256")
LONGEST_LINE = 1 << 17
_ALIKE = "|".join(ALGORITHMS)
_NAMED = re.compile(
    rf"(?P<subject>.+)\.(?:{_ALIKE})(?:sums?)?(?:\.txt)?|(?:{_ALIKE})(?:[._-]?sums?)?(?:\.txt)?"
    rf"|(?:{_ALIKE})[._-]?sums?[._-]\w+\.txt|(?:.*[._-])?checksums?(?:\.txt)?|(?:tag)?manifest-(?:{_ALIKE})\.txt",
    re.IGNORECASE | re.DOTALL,
)
_GNU = re.compile(rb"(\\?)([0-9A-Fa-f]{32,128}) [ *](.+)", re.DOTALL)
_LOOSE = re.compile(rb"(\\?)([0-9A-Fa-f]{32,128})[ \t]+\*?([^ \t].*)", re.DOTALL)
_BSD = re.compile(rb"(\\?)(MD5|SHA1|SHA224|SHA256|SHA384|SHA512) ?\((.+)\) ?= ?([0-9A-Fa-f]{32,128})", re.DOTALL)
_BARE = re.compile(rb"([0-9A-Fa-f]{32,128})")
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b"n": b"\n", b"r": b"\r"}
_BY_LENGTH = {length: name for name, length in ALGORITHMS.items()}


@dataclass(frozen=True, slots=True)
class SumClaim:
    """What a line says: this file has this digest, in lower case. ``absolute``: the line has an absolute path."""

    path: str
    algorithm: str
    value: str
    line: int
    absolute: bool = False


@dataclass(frozen=True, slots=True)
class SumFault:
    """A line that names no file of the release: which kind of fault it is, and what it says."""

    kind: str
    line: int
    detail: str


def is_sum_file(name: str) -> bool:
    """Tell whether a file of this name holds checksums: ``SHA256SUMS``, ``md5sum.txt``, ``x.sha256sum``, ``x.md5``."""
    return bool(_NAMED.fullmatch(name))


def subject_of(name: str) -> str | None:
    """Return the file that ``x.fits.md5`` is of, if its one line is a digest alone."""
    found = _NAMED.fullmatch(name)
    return found["subject"] if found else None


def parse_sums(directory: str, name: str, lines: Iterable[bytes], root: str) -> Iterator[SumClaim | SumFault]:
    """Yield what the lines of a checksum file say; ``directory`` is its own, below ``root``, "" for that.

    A file that names nothing gives a ``SumFault`` of line 0.
    """
    named = 0
    for number, line in enumerate(lines, 1):
        text = line.rstrip(b"\n").removesuffix(b"\r")
        if not text.strip() or text.startswith((b"#", b";")):
            continue
        named += 1
        found = _split(text, name)
        if found is None:
            yield SumFault("sum-line", number, repr(text[:80])[2:-1])
            continue
        algorithm, value, path = found
        if algorithm not in COMPUTED:
            yield SumFault("sum-algorithm", number, f"{algorithm} of {path}")
            continue
        absolute = path.startswith("/")
        place = posixpath.normpath(path if absolute else posixpath.join("/", directory, path))
        if absolute:
            place = "/" + place.lstrip("/")
            inside = f"{place}/".startswith(root.rstrip("/") + "/")
            place = place[len(root.rstrip("/")) :] if inside else ""
        else:
            inside = not _leaves(directory, path)
        if not inside or not place.strip("/"):
            yield SumFault("sum-outside", number, path)
            continue
        yield SumClaim(place.lstrip("/"), algorithm, value, number, absolute)
    if not named:
        yield SumFault("sum-empty", 0, "")


def _leaves(directory: str, path: str) -> bool:
    """Tell whether a relative path leads above the release."""
    relative = posixpath.normpath(posixpath.join(directory or ".", path))
    return relative == ".." or relative.startswith("../")


def _split(text: bytes, name: str) -> tuple[str, str, str] | None:
    """Return (algorithm, digest, path) of a line, None where it is none."""
    if found := _BSD.fullmatch(text):
        algorithm, path, value = found[2].decode().lower(), found[3], found[4]
        if len(value) != ALGORITHMS[algorithm]:
            return None
    elif found := _GNU.fullmatch(text) or _LOOSE.fullmatch(text):
        value, path = found[2], found[3]
        algorithm = _BY_LENGTH.get(len(value), "")
    elif (found := _BARE.fullmatch(text.strip())) and (subject := subject_of(name)):
        value, path = found[1], b""
        algorithm = _BY_LENGTH.get(len(value), "")
        return (algorithm, value.decode().lower(), subject) if algorithm else None
    else:
        return None
    if found[1]:
        if (unescaped := _unescape(path)) is None:
            return None
        path = unescaped
    if not algorithm or b"\0" in path:
        return None
    return algorithm, value.decode().lower(), path.decode("utf-8", "surrogateescape")


def _unescape(path: bytes) -> bytes | None:
    """Return a name of a line that begins with a backslash; None where an escape is none."""
    if any(found[1] not in _ESCAPED for found in _ESCAPE.finditer(path)) or path.replace(rb"\\", b"").endswith(b"\\"):
        return None
    return _ESCAPE.sub(lambda found: _ESCAPED[found[1]], path)


def format_sum(value: str, name: str) -> bytes:
    """Return the line of a file as ``sha256sum`` writes it."""
    raw = os.fsencode(name)
    escaped = raw.replace(b"\\", rb"\\").replace(b"\n", rb"\n").replace(b"\r", rb"\r")
    return (b"\\" if escaped != raw else b"") + value.encode() + b"  " + escaped + b"\n"
