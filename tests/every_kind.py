"""A tree with every kind of entry, and a walker that knows nothing of Lading to compare two trees by.

Input: a directory. Output: its entries as plain values.
"""

import hashlib
import os
import socket
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

ACL = struct.pack(
    "<I" + "HHI" * 5,
    2,
    *(0x01, 6, 0xFFFFFFFF),  # the owner
    *(0x02, 4, 4242),  # a user by number
    *(0x04, 4, 0xFFFFFFFF),
    *(0x10, 4, 0xFFFFFFFF),
    *(0x20, 0, 0xFFFFFFFF),
)
BEFORE_1970, AFTER_2106 = -123_456_789_987_654_321, 4_300_000_000_123_456_789
NANOSECONDS = 1_700_000_000_123_456_789
# What no restore makes again unless asked to, and so its summary names it.
NOT_MADE = {"fifo", "socket", "links/out", "links/absolute", "links/through"}
DANGLING = {"links/dangling", "links/loop", "links/loop-a", "links/loop-b", "links/out", "links/through"}


def make(root: Path) -> None:
    """Make the tree."""
    for name in ("a/b/c", "d", "empty", "empty-locked", "links", "locked"):
        (root / name).mkdir(parents=True)
    (root / "a" / "plain").write_bytes(b"plain\n")
    (root / "a" / "b" / "named\xff".encode("latin-1").decode("utf-8", "surrogateescape")).write_bytes(b"odd\n")
    (root / "a" / "b" / "first").write_bytes(os.urandom(3000))
    os.link(root / "a/b/first", root / "d/second")
    os.link(root / "a/b/first", root / "third")
    with open(root / "sparse", "wb") as stream:
        stream.seek(2_000_000)
        stream.write(b"island")
        stream.truncate(9_000_000)
    (root / "zeros").write_bytes(bytes(300_000))
    for place, name in enumerate(("before-1970", "after-2106", "nanoseconds")):
        path = root / "d" / name
        path.write_bytes(name.encode())
        os.utime(path, ns=(NANOSECONDS + place, (BEFORE_1970, AFTER_2106, NANOSECONDS)[place]))
    (root / "mode-0000").write_bytes(b"nobody")
    (root / "setuid").write_bytes(b"#!/bin/true\n")
    (root / "attributes").write_bytes(b"attributed")
    os.setxattr(root / "attributes", "user.note", b"a \0 value")
    os.setxattr(root / "attributes", "user.odd \n/name", b"")
    os.setxattr(root / "attributes", "system.posix_acl_access", ACL)
    os.setxattr(root / "d", "system.posix_acl_default", ACL)
    os.setxattr(root / "d", "user.directory", b"too")
    (root / "links/inside").symlink_to("../a/plain")
    (root / "links/directory").symlink_to("../a/b")
    (root / "links/dangling").symlink_to("nowhere")
    (root / "links/loop").symlink_to("loop")
    (root / "links/loop-a").symlink_to("loop-b")
    (root / "links/loop-b").symlink_to("loop-a")
    (root / "links/out").symlink_to("../../elsewhere")
    (root / "links/absolute").symlink_to("/etc")
    (root / "links/through").symlink_to("directory/../../../../etc/none")
    os.mkfifo(root / "fifo")
    here = os.getcwd()
    os.chdir(root)  # the path of a socket has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as plug:
            plug.bind("socket")
    finally:
        os.chdir(here)
    (root / "locked" / "inside").write_bytes(b"behind a mode")
    if os.geteuid() == 0:
        os.chown(root / "attributes", 12345, 23456)
        os.chown(root / "links/inside", 12345, 23456, follow_symlinks=False)
        os.chown(root / "setuid", 12345, 23456)
    (root / "mode-0000").chmod(0)
    (root / "setuid").chmod(0o6755)
    (root / "locked").chmod(0o500)
    (root / "empty-locked").chmod(0o1555)
    os.utime(root / "links/dangling", ns=(NANOSECONDS, AFTER_2106), follow_symlinks=False)
    for name in ("locked", "empty", "d", "a/b", "a", "."):
        os.utime(root / name, ns=(NANOSECONDS, NANOSECONDS - len(name)))


def look(root: Path) -> dict[str, dict[str, Any]]:
    """Return what each entry is, by its path."""
    found: dict[str, dict[str, Any]] = {}
    inodes: dict[tuple[int, int], list[str]] = defaultdict(list)
    for folder, directories, names in os.walk(os.fsencode(root)):
        for name in [b"", *directories, *names] if folder == os.fsencode(root) else [*directories, *names]:
            path = os.path.join(folder, name) if name else folder
            text = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            status = os.lstat(path)
            entry: dict[str, Any] = {
                "mode": oct(status.st_mode),
                "owner": (status.st_uid, status.st_gid),
                "mtime": status.st_mtime_ns,
                "xattrs": {key: os.getxattr(path, key, follow_symlinks=False) for key in _xattrs(path)},
            }
            if os.path.islink(path):
                entry["target"] = os.readlink(path)
            elif os.path.isfile(path):
                entry["atime"] = status.st_atime_ns
                entry["sparse"] = status.st_blocks * 512 < status.st_size
                with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOATIME)) as stream:
                    entry["content"] = (status.st_size, hashlib.file_digest(stream, "sha256").hexdigest())
                inodes[status.st_dev, status.st_ino].append(text)
            found[text] = entry
    for texts in inodes.values():
        for text in texts:
            found[text]["names"] = sorted(texts)
    return found


def _xattrs(path: bytes) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))
