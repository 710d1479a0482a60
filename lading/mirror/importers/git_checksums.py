"""Checksums that a git repository holds beside the data: in checksum files, git-annex keys and Git LFS pointers.

Input: a repository and the listing of the bucket that has the data. Output:
the listed objects, each with the digest that the repository gives for its path.
Invariant: the commit HEAD is read, no work tree and no content of the data;
an object whose size is another than the repository says is refused.

Sources: git-annex, "key format"; Git LFS specification, "The Pointer"; GNU
coreutils, "md5sum invocation"; RFC 8493, "Payload Manifest".
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lading.core.errors import UsageError
from lading.mirror.git.annex_keys import key_of_target
from lading.mirror.git.commands import read_blobs, run, succeeds
from lading.mirror.git.portable_names import to_text
from lading.mirror.importers.claimed_rows import ClaimedObject

_SUMS = re.compile(rb"(?:(sha256|md5)sums?(?:\.txt)?|manifest-(sha256|md5)\.txt|.+\.(sha256|md5))", re.IGNORECASE)
_LINE = re.compile(rb"(\\)?([0-9a-fA-F]{32}|[0-9a-fA-F]{64}) [ *](.+)")
_BSD = re.compile(rb"(?:SHA256|MD5) \((.+)\) = ([0-9a-fA-F]{32}|[0-9a-fA-F]{64})")
_KEY = re.compile(rb"(SHA256E?|MD5E?)-s(\d+)--([0-9a-f]+)")
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:.*\n)*?oid sha256:([0-9a-f]{64})\nsize (\d+)\n"
)
_LARGEST_POINTER = 1024
_LARGEST_SUMS = 1 << 30


@dataclass(frozen=True)
class KnownContent:
    """What a repository says of a file."""

    sha256: str | None = None
    md5: str | None = None
    size: int | None = None


def is_repository(path: Path) -> bool:
    """Tell whether there is a git repository at ``path``."""
    return path.is_dir() and succeeds(["rev-parse", "--git-dir"], path)


def read_checksums(path: Path) -> dict[str, KnownContent]:
    """Return what HEAD says of each file; ``UsageError`` when it says nothing."""
    if not succeeds(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], path):
        raise UsageError(f"{path} has no commit, so it says nothing of any file")
    sums, links, small = [], [], []
    for line in run(["ls-tree", "-r", "-l", "-z", "--full-tree", "HEAD"], path).split(b"\0"):
        if not line:
            continue
        head, name = line.split(b"\t", 1)
        mode, kind, sha, size = head.split()
        if kind != b"blob":
            continue
        if mode == b"120000":
            links.append((name, sha))
        elif _SUMS.fullmatch(name.rpartition(b"/")[2]) and int(size) <= _LARGEST_SUMS:
            sums.append((name, sha))
        elif int(size) <= _LARGEST_POINTER:
            small.append((name, sha))
    found: dict[str, KnownContent] = {}
    for (name, _), data in zip(sums, read_blobs(path, [sha for _, sha in sums]), strict=True):
        for other, digest in _sums_of(name, data):
            _add(found, other, digest, None)
    for (name, _), target in zip(links, read_blobs(path, [sha for _, sha in links]), strict=True):
        if match := _KEY.match(key_of_target(target) or b""):
            _add(found, to_text(name), match[3].decode(), int(match[2]))
    for (name, _), data in zip(small, read_blobs(path, [sha for _, sha in small]), strict=True):
        if match := _POINTER.match(data):
            _add(found, to_text(name), match[1].decode(), int(match[2]))
    if not found:
        raise UsageError(
            f"{path} has no checksums: neither files like SHA256SUMS or manifest-sha256.txt, nor git-annex keys, nor "
            "Git LFS pointers"
        )
    return found


def _sums_of(name: bytes, data: bytes) -> Iterator[tuple[str, str]]:
    """Yield (path in the repository, digest) of the lines of a checksum file; its paths are beside it."""
    above = name.rpartition(b"/")[0]
    for line in data.splitlines():
        match, bsd = _LINE.fullmatch(line), _BSD.fullmatch(line)
        if match:
            file, digest = match[3], match[2]
            if match[1]:
                file = file.replace(b"\\n", b"\n").replace(b"\\\\", b"\\")
        elif bsd:
            file, digest = bsd[1], bsd[2]
        else:
            continue
        while file.startswith(b"./"):
            file = file[2:]
        yield to_text(above + b"/" + file if above else file), digest.decode().lower()


def _add(found: dict[str, KnownContent], path: str, digest: str, size: int | None) -> None:
    known = found.get(path, KnownContent())
    known = replace(known, size=size if size is not None else known.size)
    found[path] = replace(known, sha256=digest) if len(digest) == 64 else replace(known, md5=digest)


def join_checksums(
    listed: Iterable[ClaimedObject], known: dict[str, KnownContent], refuse: Callable[[str, str], None]
) -> Iterator[ClaimedObject]:
    """Yield the listed objects with their digests; ``refuse`` hears of what the two do not agree on."""
    left = set(known)
    for item in listed:
        said = known.get(item.path)
        left.discard(item.path)
        if said is None:
            yield item
        elif said.size is not None and said.size != item.size:
            refuse(item.path, f"the repository says {said.size:,} bytes, the bucket {item.size:,}")
        else:
            yield replace(item, sha256=said.sha256, md5=said.md5)
    for path in sorted(left):
        refuse(path, "the repository has a checksum of it, but the bucket has no such object")
