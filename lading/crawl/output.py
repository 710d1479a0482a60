"""The tree onto disk or into a pipe, in one pass.

Input: a settled walker. Output: the text, plain or zstd by file name, and the
SHA-256 of the plain text.
Invariant: a file is there whole or not at all.
"""

import hashlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lading.core.atomic import atomic_write
from lading.core.errors import LadingError
from lading.crawl.options import NCDU, Walker

ROOM = 1 << 20
STDOUT = Path("-")
LEVEL = 3


def write_tree(output: Path, walker: Walker, form: int, depth: int | None) -> str:
    """Write the tree to ``output`` (``-`` is stdout, ``.zst`` compresses); returns the SHA-256 of the text.

    Raises ``LadingError`` when it cannot be written; nothing is left then.
    """
    digest = hashlib.sha256()
    with _open(output) as stream:
        if form == NCDU:
            head = f'[1,2,{{"progname":"lading","progver":"1","timestamp":{int(time.time())}}},\n'
            stream.write(head.encode())
        try:
            while piece := walker.render(form, -1 if depth is None else depth, ROOM):
                digest.update(piece)
                stream.write(piece)
        except MemoryError:
            raise LadingError(f"cannot write {output}: memory is exhausted") from None
        if form == NCDU:
            stream.write(b"]\n")
    return digest.hexdigest()


@contextmanager
def _open(output: Path) -> Iterator[IO[bytes]]:
    if output == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if not output.parent.is_dir():
        raise LadingError(f"cannot write {output}: {output.parent} is not a directory; make it or choose another -o")
    with atomic_write(output, "wb", sweep=True) as stream:
        if output.suffix != ".zst":
            yield stream
            return
        import zstandard

        with zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(stream, closefd=False) as packed:
            yield packed
