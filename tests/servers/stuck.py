"""A file server that dies: a FUSE mount of a few files whose server stops reading requests.

Input: names and sizes. Output: a mounted directory; from ``die`` on, or after
the answer to a chosen kind of request, nothing there answers any more.
Invariant: who waits for it can be killed, as with a hard NFS mount, but is
not woken by a signal that is handled. Leaving the block ends all waiting.

Source of the structures: fuse(4), linux/fuse.h of Linux 6, protocol 7.31.
"""

import ctypes
import errno
import os
import select
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

LOOKUP, GETATTR, OPEN, READ, STATFS, RELEASE, INIT, OPENDIR, READDIR, RELEASEDIR = 1, 3, 14, 15, 17, 18, 26, 27, 28, 29
UNANSWERED = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
HEADER, ANSWER = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
MNT_DETACH = 2
MTIME = 1_700_000_000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Stuck:
    """The files by number: 1 is the directory itself; all bytes are zero.

    It dies after it answered requests of the kind ``dies_after`` ``chances`` times.
    """

    def __init__(self, device: int, files: Mapping[str, int]) -> None:
        self._device, self.dies_after, self.chances = device, -1, 1
        self._sizes = list(files.values())
        self._names = [name.encode() for name in files]
        self.dead = threading.Event()
        self.closed = False

    def die(self) -> None:
        """Answer nothing from now on."""
        self.dead.set()

    def serve(self) -> None:
        """Answer until it is dead."""
        while not self.closed:
            if not select.select([self._device], [], [], 0.05)[0] or self.dead.is_set():
                if self.dead.is_set():
                    return
                continue
            try:
                request = os.read(self._device, 1 << 18)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue  # whoever asked is gone
                return
            _, operation, number, node, *_ = HEADER.unpack_from(request)
            if operation in UNANSWERED:
                continue
            code, body = self._answer(operation, node, request[HEADER.size :])
            with suppress(OSError):  # whoever asked is gone
                os.write(self._device, ANSWER.pack(ANSWER.size + len(body), -code, number) + body)
            if operation == self.dies_after:
                self.chances -= 1
                if not self.chances:
                    self.die()

    def _answer(self, operation: int, node: int, body: bytes) -> tuple[int, bytes]:
        if operation == INIT:
            return 0, struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 17, 0, 16, 12, 1 << 17, 1, 32, 0, 0)
        if operation == LOOKUP:
            name = body.rstrip(b"\0")
            if name not in self._names:
                return errno.ENOENT, b""
            found = 2 + self._names.index(name)
            return 0, struct.pack("<QQQQII", found, 0, 0, 0, 0, 0) + self._attributes(found)
        if operation == GETATTR:
            return 0, struct.pack("<QII", 0, 0, 0) + self._attributes(node)
        if operation in (OPEN, OPENDIR):
            return 0, struct.pack("<QII", node, 0, 0)
        if operation == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return 0, bytes(max(0, min(size, self._sizes[node - 2] - offset)))
        if operation == READDIR:
            return 0, self._entries(struct.unpack_from("<QQ", body)[1])
        if operation in (RELEASE, RELEASEDIR):
            return 0, b""
        if operation == STATFS:
            return 0, struct.pack("<QQQQQIIII24x", 1 << 30, 1 << 30, 1 << 30, 9, 9, 4096, 255, 4096, 0)
        return errno.ENOSYS, b""

    def _attributes(self, node: int) -> bytes:
        size = 0 if node == 1 else self._sizes[node - 2]
        mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFREG | 0o644
        return struct.pack(
            "<QQQQQQIIIIIIIIII",
            node, size, -(-size // 512), MTIME, MTIME, MTIME, 0, 0, 0, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0,
        )  # fmt: skip

    def _entries(self, start: int) -> bytes:
        found = b""
        for place, name in enumerate(self._names[start:], start):
            entry = struct.pack("<QQII", place + 2, place + 1, len(name), stat.S_IFREG >> 12) + name
            found += entry + bytes(-len(entry) % 8)
        return found


@contextmanager
def serve(place: Path, files: Mapping[str, int]) -> Iterator[Stuck]:
    """Mount the files at ``place``; raises ``OSError`` where this user may not mount."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
    if _LIBC.mount(b"stuck", os.fsencode(place), b"fuse", 0, options):
        os.close(device)
        raise OSError(ctypes.get_errno(), "no FUSE mount is allowed here")
    stuck = Stuck(device, files)
    thread = threading.Thread(target=stuck.serve, daemon=True)
    thread.start()
    try:
        # The kernel learns that FLUSH is not known here: it would wait for its answer even in a process that is killed.
        os.close(os.open(place / next(iter(files)), os.O_RDONLY))
        yield stuck
    finally:
        stuck.closed = True
        _LIBC.umount2(os.fsencode(place), MNT_DETACH)
        thread.join(5)
        os.close(device)  # the kernel ends what still waits
