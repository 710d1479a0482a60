"""git-annex keys and where git-annex keeps them, computed without running git-annex.

Input: size, digest and file name. Output: keys, hash directories and symlink
targets as bytes.
Invariant: equal to what ``git annex examinekey`` prints; a name whose suffix
is not plain ASCII letters and digits is put to ``examinekey`` itself, and
``check_against_annex`` compares one key before anything is written.

Sources: https://git-annex.branchable.com/internals/key_format/ and
https://git-annex.branchable.com/internals/hashing/ (hash directories).
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from lading.core.errors import ConsistencyError
from lading.mirror.git.commands import run

# git-annex' default bounds of a suffix that becomes part of a key.
_LONGEST_SUFFIX = 4
_MOST_SUFFIXES = 2
_PLAIN = re.compile(rb"[^./]+(?:\.[A-Za-z0-9]+)*", re.DOTALL)
_DIGITS = b"0123456789zqjxkmvwgpfZQJXKMVWGPF"


@lru_cache(maxsize=1 << 16)
def plain_suffix(name: bytes) -> bytes | None:
    """Return the suffix that belongs into the key of a file ``name``, or None where only git-annex knows."""
    if not _PLAIN.fullmatch(name):
        return None
    kept: list[bytes] = []
    for part in reversed(name.split(b".")[1:]):
        if len(part) > _LONGEST_SUFFIX or len(kept) == _MOST_SUFFIXES:
            break
        kept.append(part)
    return b"".join(b"." + part for part in reversed(kept))


def suffixes(names: Iterable[bytes], repository: Path) -> dict[bytes, bytes]:
    """Return the key suffix of each file name, asking git-annex for the unusual ones in one batch."""
    found: dict[bytes, bytes] = {}
    unusual: list[bytes] = []
    for name in names:
        if name in found:
            continue
        suffix = plain_suffix(name)
        found[name] = suffix or b""
        if suffix is None:
            unusual.append(name)
    if unusual:
        bare = b"SHA256-s1--" + b"0" * 64
        answers = run(
            ["annex", "examinekey", "--migrate-to-backend=SHA256E", "--batch", "-z"],
            repository,
            b"".join(bare + b" " + name + b"\0" for name in unusual),
        ).split(b"\n")
        head = len(b"SHA256E-s1--") + 64
        if len(answers) != len(unusual) + 1:
            raise ConsistencyError(f"git annex examinekey answered {len(answers) - 1} of {len(unusual)} names")
        for name, answer in zip(unusual, answers, strict=False):
            found[name] = answer[head:]
    return found


def make_key(backend: str, size: int, digest: str, suffix: bytes) -> bytes:
    """Return ``BACKEND-sSIZE--DIGEST.suffix`` for backend SHA256E or MD5E."""
    return f"{backend}-s{size}--{digest}".encode() + suffix


# The length of what ``lower_directory`` returns.
HASHED = 8


def lower_directory(key: bytes) -> bytes:
    """Return ``abc/def/``: where the git-annex branch keeps the logs of ``key``."""
    digest = hashlib.md5(key, usedforsecurity=False).hexdigest()
    return f"{digest[:3]}/{digest[3:6]}/".encode()


def mixed_directory(key: bytes) -> bytes:
    """Return ``Xy/Zw/``: where a work tree's symlink expects the content of ``key``."""
    word = struct.unpack("<I", hashlib.md5(key, usedforsecurity=False).digest()[:4])[0]
    a, b, c, d = (_DIGITS[word >> shift & 31] for shift in (0, 6, 12, 18))
    return bytes((b, a, 0x2F, d, c, 0x2F))


def link_target(path: bytes, key: bytes) -> bytes:
    """Return the target of the symlink that stands for ``key`` at ``path`` of a repository."""
    return b"../" * path.count(b"/") + b".git/annex/objects/" + mixed_directory(key) + key + b"/" + key


def key_of_target(target: bytes) -> bytes | None:
    """Return the key that a symlink target names, or None for a link that is not git-annex'."""
    parts = target.split(b"/")
    return parts[-1] if len(parts) > 4 and parts[-1] == parts[-2] and b"annex/objects" in target else None


def check_against_annex(key: bytes, repository: Path) -> None:
    """Raise ``ConsistencyError`` unless git-annex places ``key`` where this module does."""
    answer = json.loads(run(["annex", "examinekey", "--json", "--batch"], repository, key + b"\n"))
    ours = (lower_directory(key).decode(), mixed_directory(key).decode())
    if (answer["hashdirlower"], answer["hashdirmixed"]) != ours:
        raise ConsistencyError(
            f"git-annex places {key!r} in {answer['hashdirlower']} and {answer['hashdirmixed']}, not in {ours}: "
            "this version is not supported; use the git-annex that make mirror, or pip install 'lading[mirror]', brings"
        )
