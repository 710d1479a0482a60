"""Digests of local bytes, in the forms that a bucket shows.

Input: files. Output: ``FileDigests`` of each: MD5 (or the MD5 of each part),
SHA-256 and CRC64NVME.
Invariant: a stat before and after the read says whether the digests belong
to one state of the file. Many files at once go by the compiled module where
it was built; one file with any part size by ``digest_file``, which is also
what the tests compare the compiled module with.
"""

import base64
import errno
import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

# The part rule lies with the formats, since the estimate follows it too; callers here know it by this module.
from lading.checksums.parts import MIB as MIB
from lading.checksums.parts import PART_BYTES as PART_BYTES
from lading.checksums.parts import PARTS as PARTS
from lading.checksums.parts import part_bytes as part_bytes
from lading.core.compiled import load_compiled
from lading.core.errors import UsageError
from lading.core.opening import Root, not_regular, open_plain
from lading.core.times import ctime_of, mtime_of

READ_BYTES = 1 * MIB
CORES = len(os.sched_getaffinity(0))
# Of one call: enough files to fill the lanes, few enough that all cores have some. Large files share a call, since
# each of them is slow alone; but no call is longer than some seconds for that.
CHUNK_FILES = 64
CHUNK_BYTES = 64 * MIB
LARGE_BYTES = 4 * MIB
LANES = 16
FEW = 4  # lanes that pay, even if a core has nothing to do then: two calls of two cost 1.4 times the CPU of one of four
LANES_BYTES = 8 << 30
# The paths of SHA-256 in the compiled module: SHA instructions, vectors of 16, 8 or 4 words, and ``none``.
PATH_VARIABLE = "LADING_DIGEST_PATH"
PATHS = ("sha_ni", "avx512", "avx2", "plain")
# Part sizes that other tools use by default, for adopting what they sent (aws cli 8, rclone 5, boto3 8, mc 16 …).
COMMON_PARTS = tuple(n * MIB for n in (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128, 256, 500, 512, 1024))


@dataclass(frozen=True, slots=True)
class FileState:
    """What a stat says of a file's identity: any change to its bytes changes one of these.

    ``device`` may change with each mount of a network file system, so it says
    something within one run only; 0 where it is not known.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        """Return the stamp of a stat."""
        return cls(status.st_size, mtime_of(status), ctime_of(status), status.st_ino, status.st_dev)


@dataclass(frozen=True, slots=True)
class FileDigests:
    """Digests of one file state.

    etag    what S3 shows for it when sent in one piece (MD5) or in parts of ``part_bytes`` (``md5-n``)
    md5     hex of the whole, for parts too
    sha256  hex, None where it was not asked for; crc64: CRC64NVME, base64 of 8 big-endian bytes as S3 writes it
    before, after  the stamps around the read
    """

    etag: str
    md5: str
    sha256: str | None
    crc64: str
    before: FileState
    after: FileState

    @property
    def steady(self) -> bool:
        """True when the file did not change while it was read."""
        return self.before == self.after


def open_regular(path: str, root: Root | None = None) -> int:
    """Return a descriptor to read a regular file, below ``root`` not through a link (``lading.core.opening``).

    Raises ``OSError`` for all else, a pipe without waiting. Without a root links are gone through.
    """
    return open_plain(path) if root is None else root.open(path)


class DigestCount:
    """How many files this process read for their digests, and their bytes; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.files = self.bytes = 0

    def add(self, found: Iterable["FileDigests | OSError"]) -> None:
        """Count what was read to its end."""
        sizes = [digests.after.size for digests in found if not isinstance(digests, OSError)]
        with self._lock:
            self.files += len(sizes)
            self.bytes += sum(sizes)


DIGESTED = DigestCount()


def digest_file(
    path: str, part: int | None = None, stop: bytearray | None = None, root: Root | None = None
) -> FileDigests:
    """Read ``path`` once and return its digests.

    ``part`` is the part size in bytes of the wanted ETag: None for the one
    s5cmd would make, 0 for a plain MD5. It is opened as ``open_regular`` does.
    Raises ``OSError``, ``ECANCELED`` when ``stop[0]`` is set meanwhile.
    """
    found = _digest_file(path, part, stop, root)
    DIGESTED.add([found])
    return found


def _digest_file(
    path: str, part: int | None, stop: bytearray | None, root: Root | None, wants_sha256: bool = True
) -> FileDigests:
    from awscrt import checksums  # not at the start: the compiled module does without

    descriptor = open_regular(path, root)
    try:
        before = FileState.of(os.fstat(descriptor))
        if part is None:
            size = part_bytes(before.size)
            part = size if before.size > size else 0
        sha256, crc64 = hashlib.sha256() if wants_sha256 else None, 0
        md5, whole = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False)
        parts: list[bytes] = []
        held = 0
        buffer = memoryview(bytearray(min(READ_BYTES, max(before.size + 1, 4096))))
        while count := os.readv(descriptor, [buffer]):
            _check(stop)
            block = buffer[:count]
            if sha256:
                sha256.update(block)
            crc64 = checksums.crc64nvme(block, crc64)
            if part:
                whole.update(block)
            while part and held + len(block) >= part:
                md5.update(block[: part - held])
                parts.append(md5.digest())
                block = block[part - held :]
                md5, held = hashlib.md5(usedforsecurity=False), 0
            md5.update(block)
            held += len(block)
        after = FileState.of(os.fstat(descriptor))
    finally:
        os.close(descriptor)
    crc, sha = _crc_text(crc64), sha256.hexdigest() if sha256 else None
    if not part:
        plain = md5.hexdigest()
        return FileDigests(plain, plain, sha, crc, before, after)
    if held or not parts:
        parts.append(md5.digest())
    return FileDigests(join_parts(parts), whole.hexdigest(), sha, crc, before, after)


def digest_files(
    files: Sequence[tuple[str, int]],
    stop: bytearray | None = None,
    root: Root | None = None,
    *,
    wants_sha256: bool = True,
) -> list[FileDigests | OSError]:
    """Return the digests of each (path, size), or why it cannot be read; ETags in the form that s5cmd would make.

    ``root``: below which the files are opened, as ``open_regular`` does.
    ``stop``, one byte: from when on it is not 0, what is not done is an ``OSError`` of ``ECANCELED``.
    ``wants_sha256``: without it SHA-256, which takes most of the time, is not computed.
    """
    found = _digest_files(files, stop, root, wants_sha256)
    DIGESTED.add(found)
    return found


def _digest_files(
    files: Sequence[tuple[str, int]], stop: bytearray | None, root: Root | None, wants_sha256: bool
) -> list[FileDigests | OSError]:
    path, core = digest_path(), _core()
    if core is None:
        return [_digest_one(name, stop, root, wants_sha256) for name, _ in files]
    if not wants_sha256:
        path = "none"
    parts = [part_bytes(size) for _, size in files]
    if path == "none" and wants_sha256 and any(size > part for (_, size), part in zip(files, parts)):
        # Without SHA-256 there a second reading is needed; of large files it would be one of the disk.
        return [_digest_one(name, stop, root, wants_sha256) for name, _ in files]
    stop = bytearray(1) if stop is None else stop
    if root is None:
        tasks = [(os.fsencode(name), part) for (name, _), part in zip(files, parts)]
        answers = core.digest_files(tasks, stop, -1, True, path)
    else:
        tasks = [(os.fsencode(root.name(name)), part) for (name, _), part in zip(files, parts)]
        answers = core.digest_files(tasks, stop, root.descriptor, root.follow, path)
    return [_unpack(answer, name, part, root, wants_sha256) for answer, (name, _), part in zip(answers, files, parts)]


def chunk_slices(sizes: Sequence[int], cores: int) -> Iterator[slice]:
    """Yield slices of files that are worth one call and no more, so that ``cores`` have some of the large ones each."""
    large = sum(size >= LARGE_BYTES for size in sizes)
    together = min(LANES, max(FEW, -(-large // max(1, cores)))) if digest_path() != "python" else 1
    first = held = 0
    for number, size in enumerate(sizes, 1):
        held += size
        full = number - first >= CHUNK_FILES or held >= LANES_BYTES
        if held >= CHUNK_BYTES:  # large ones that follow come along
            follows = number < len(sizes) and sizes[number] >= LARGE_BYTES
            full = full or not follows or number - first >= together
        if full:
            yield slice(first, number)
            first, held = number, 0
    if first < len(sizes):
        yield slice(first, len(sizes))


def in_chunks(files: Iterable[tuple[str, int]], cores: int) -> Iterator[list[tuple[str, int]]]:
    """Yield the files in lists that are worth one call and no more."""
    every = list(files)
    for piece in chunk_slices([size for _, size in every], cores):
        yield every[piece]


# What gives the digests of some files, or why they cannot be read: ``digest_files`` below a root, or kept ones.
Digest = Callable[[Sequence[tuple[str, int]], bytearray | None], list["FileDigests | OSError"]]


def digest_in_pool(
    pool: Executor, files: Iterable[tuple[str, int]], stop: bytearray | None = None, digest: Digest = digest_files
) -> Iterator[FileDigests | OSError]:
    """Return the digests of many files, in order, made on all threads of a pool."""
    for done in [pool.submit(digest, chunk, stop) for chunk in in_chunks(files, CORES)]:
        yield from done.result()


def sha256_together(buffers: Sequence[Any]) -> list[str]:
    """Return the SHA-256 of each of some buffers, in hex: side by side, where that is quicker than one by one."""
    core, path = _core(), digest_path()
    if len(buffers) < 2 or path in ("python", "none") or not hasattr(core, "sha256_buffers"):
        return [hashlib.sha256(buffer).hexdigest() for buffer in buffers]
    return [found.hex() for found in core.sha256_buffers(buffers, path)]


# Checksums of S3 by their names there, and their bytes; beside these, ``start_hash`` knows md5.
CHECKSUMS = {"sha256": 32, "sha1": 20, "crc64nvme": 8, "crc32": 4, "crc32c": 4}


class Hash(Protocol):
    """What takes bytes and gives a digest, as those of hashlib do."""

    def update(self, block: bytes, /) -> None:
        """Take some bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the digest of all of them."""
        ...


class _Crc:
    """A CRC with the methods of a hash."""

    def __init__(self, step: Callable[[bytes, int], int], size: int) -> None:
        self._step, self._size, self._value = step, size, 0

    def update(self, block: bytes, /) -> None:
        self._value = self._step(block, self._value)

    def hexdigest(self) -> str:
        return self._value.to_bytes(self._size, "big").hex()


def start_hash(name: str) -> Hash:
    """Return a new hash of one of ``CHECKSUMS``, or md5."""
    if name in ("md5", "sha1"):
        return hashlib.new(name, usedforsecurity=False)
    if name == "sha256":
        return hashlib.sha256()
    if name == "crc32":
        return _Crc(zlib.crc32, 4)
    from awscrt import checksums  # not at the start: few objects have such a checksum

    return _Crc(checksums.crc32c, 4) if name == "crc32c" else _Crc(checksums.crc64nvme, 8)


def read_whole_checksum(text: str) -> tuple[str, str] | None:
    """Return (name, hex) of ``<algorithm>:<base64>``, None when it is no checksum of a whole that is known here."""
    name, _, value = text.partition(":")
    try:
        digest = base64.b64decode(value, validate=True)
    except ValueError:
        return None
    return (name, digest.hex()) if CHECKSUMS.get(name) == len(digest) else None


def read_checksum(descriptor: int, name: str, check: Callable[[], None] = lambda: None) -> str | None:
    """Return one of ``CHECKSUMS`` of an open file, base64 as S3 writes it; None of any other name."""
    if name not in CHECKSUMS:
        return None
    found = start_hash(name)
    while block := os.read(descriptor, READ_BYTES):
        check()
        found.update(block)
    return base64.b64encode(bytes.fromhex(found.hexdigest())).decode()


def _core() -> Any:
    """Return the compiled module, or None; ``LADING_DIGEST=python`` says no."""
    core = load_compiled("lading.checksums._digest", "LADING_DIGEST")
    return core if hasattr(core, "paths") else None  # one of an older state: till it is built anew


def digest_path() -> str:
    """Return how SHA-256 is computed here: one of ``PATHS``, two joined by ``+``, ``none`` or ``python``.

    ``LADING_DIGEST_PATH`` names one; raises ``UsageError`` where this processor cannot go that way.
    """
    core = _core()
    chosen = os.environ.get(PATH_VARIABLE, "")
    found = () if core is None else tuple(core.paths())
    if not chosen:
        return "python" if core is None else found[0] if found else "none"
    if chosen not in PATHS:
        raise UsageError(f"{PATH_VARIABLE}={chosen!r}: there is no such path; the paths are: {', '.join(PATHS)}")
    if chosen not in found:
        here = ", ".join(path for path in found if path in PATHS) or "none, as the compiled module is not used"
        raise UsageError(f"{PATH_VARIABLE}={chosen}: not possible here; this machine has: {here}")
    return chosen


def _check(stop: bytearray | None) -> None:
    if stop is not None and stop[0]:
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


def _digest_one(path: str, stop: bytearray | None, root: Root | None, wants_sha256: bool) -> FileDigests | OSError:
    try:
        _check(stop)
        return _digest_file(path, None, stop, root, wants_sha256)
    except OSError as error:
        return error


def _unpack(answer: Any, path: str, part: int, root: Root | None, wants_sha256: bool) -> FileDigests | OSError:
    if isinstance(answer, int):
        if answer < 0:
            return not_regular(-answer)
        error = OSError(answer, os.strerror(answer))
        return error if root is None else root.explain(path, error)
    md5s, md5, sha256, crc64, *stamps = answer
    before, after = (FileState(*stamp) for stamp in stamps)
    if sha256 is None and wants_sha256:  # no path of this processor is known: the library's way is then the quickest
        try:
            with open(open_regular(path, root), "rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").digest()
                after = FileState.of(os.fstat(stream.fileno()))
        except OSError as error:
            return error
    pieces = (md5s[start : start + 16] for start in range(0, len(md5s), 16))
    etag = join_parts(pieces) if before.size > part else md5.hex()
    return FileDigests(etag, md5.hex(), sha256.hex() if sha256 else None, _crc_text(crc64), before, after)


def _crc_text(crc64: int) -> str:
    return base64.b64encode(crc64.to_bytes(8, "big")).decode()


def join_parts(digests: Iterable[bytes]) -> str:
    """Return the ETag of a multipart object: MD5 of the parts' MD5s, a dash, their number."""
    parts = list(digests)
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def plausible_parts(size: int, etag: str) -> Iterator[int]:
    """Yield part sizes by which an object of ``size`` bytes may have got an ETag of this shape; 0 is one piece."""
    _, dash, count = etag.partition("-")
    if not dash:
        yield 0
        return
    if not count.isdigit() or not int(count):
        return
    seen = set()
    for part in (part_bytes(size), size // PARTS + 1, *COMMON_PARTS):
        if part not in seen and max(1, -(-size // part)) == int(count):
            seen.add(part)
            yield part
