"""Read a checksum file once: its digests, and what it claims.

Input: a file below a root. Output: a ``ReadSums``.
Invariant: a file of up to ``WHOLE`` bytes is read once for both; a longer one twice, in blocks.
"""

import base64
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO

from lading.checksums.digest import MIB, FileDigests, FileState, digest_files, start_hash
from lading.core.opening import Root
from lading.signoff.run_log import SignoffFinding
from lading.signoff.sum_files import LONGEST_LINE, SumClaim, parse_sums

WHOLE = 32 * MIB  # below the size from which objects are sent in parts: then the ETag is the MD5
Claim = dict[str, str | int | bool]


@dataclass
class ReadSums:
    """What a checksum file holds; ``digests`` of itself, or why it cannot be read."""

    digests: FileDigests | OSError
    claims: list[Claim] = field(default_factory=list)
    findings: list[SignoffFinding] = field(default_factory=list)


def read_sum_file(root: Root, path: str, real_root: str, stop: bytearray) -> ReadSums:
    """Read the checksum file at ``path`` below ``root``, which is at ``real_root``."""
    try:
        with open(root.open(path), "rb") as stream:
            before = FileState.of(os.fstat(stream.fileno()))
            if before.size > WHOLE:
                sums = ReadSums(OSError())
                _take_lines(sums, path, _lines(stream), real_root)
                (sums.digests,) = digest_files([(path, before.size)], stop, root)
                return sums
            data = stream.read(WHOLE + 1)
            after = FileState.of(os.fstat(stream.fileno()))
    except OSError as error:
        return ReadSums(error)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    sums = ReadSums(FileDigests(md5, md5, hashlib.sha256(data).hexdigest(), _crc64(data), before, after))
    _take_lines(sums, path, _lines(io.BytesIO(data)), real_root)
    return sums


def _crc64(data: bytes) -> str:
    found = start_hash("crc64nvme")
    found.update(data)
    return base64.b64encode(bytes.fromhex(found.hexdigest())).decode()


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    while line := stream.readline(LONGEST_LINE):
        yield line


def _take_lines(sums: ReadSums, path: str, lines: Iterable[bytes], real_root: str) -> None:
    directory, _, name = path.rpartition("/")
    seen: set[tuple[str, str]] = set()
    for said in parse_sums(directory, name, lines, real_root):
        if not isinstance(said, SumClaim):
            where = f"line {said.line}: {said.detail}" if said.line else said.detail
            sums.findings.append(SignoffFinding(said.kind, path, where))
            continue
        if said.absolute:
            sums.findings.append(SignoffFinding("sum-absolute", path, f"line {said.line}: /{said.path}"))
        if (said.path, said.algorithm) in seen:
            sums.findings.append(SignoffFinding("sum-repeated", path, f"line {said.line}: {said.path}"))
        seen.add((said.path, said.algorithm))
        sums.claims.append(
            {"path": said.path, "algorithm": said.algorithm, "value": said.value, "file": path, "line": said.line}
        )
