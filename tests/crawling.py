"""Help for the tests of the crawl: walks in this process, hostile trees, an oracle of any depth."""

import json
import os
import random
import socket
import stat
from pathlib import Path

from lading.crawl.options import Options, Walker
from lading.crawl.walker import make_walker
from tests.conftest import ODD_NAMES

ENGINES = ["core", "python"]


def walked(root: Path, options: Options | None = None, *, core: bool = True) -> Walker:
    """A walk of ``root`` that is done and settled."""
    walker = make_walker(os.path.abspath(root), options or Options(workers=4), core=core)
    walker.start()
    while not walker.wait(1):
        pass
    walker.end()
    walker.settle()
    return walker


def text(walker: Walker, form: int = 0, depth: int = -1, room: int = 1 << 20) -> bytes:
    """The whole text of a settled walk."""
    pieces = []
    while piece := walker.render(form, depth, room):
        pieces.append(piece)
    return b"".join(pieces)


def oracle(root: Path, *, follow: bool = False, skip: bool = False, mtime: bool = False) -> bytes:
    """The bytes of find.json from a stack of plain lists, at any depth: relative directory descriptors only."""
    top: list[object] = [os.path.basename(os.path.abspath(root)), 0, 0]
    stack = [(os.open(root, os.O_RDONLY), None, top, iter([]), True)]
    done: list[str] = []

    def add(parent, child):  # type: ignore[no-untyped-def]
        parent.append(child)

    while stack:
        descriptor, above, node, pending, fresh = stack.pop()
        if fresh:
            folders = []
            for name in os.listdir(descriptor):
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    if skip:
                        continue
                    if not follow:
                        add(node, [name, 2, 0])
                        continue
                    try:
                        status = os.stat(name, dir_fd=descriptor)
                    except FileNotFoundError:
                        add(node, [name, -1, 0])
                        continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append(name)
                elif stat.S_ISREG(status.st_mode):
                    add(node, [name, 1, status.st_size] + ([status.st_mtime_ns] if mtime else []))
                else:
                    add(node, [name, -1, 0])
            pending = iter(folders)
        name = next(pending, None)
        if name is not None:
            stack.append((descriptor, above, node, pending, False))
            stack.append((os.open(name, os.O_RDONLY, dir_fd=descriptor), node, [name, 0, 0], iter([]), True))
            continue
        os.close(descriptor)
        children = sorted(node[3:], key=lambda child: (child[1], child[0]))
        node[2:] = [sum(child[2] for child in children), *children]
        # A directory's text is made here, so that json never sees more than one level.
        parts = [c[3] if c[1] == 0 else json.dumps(c, separators=(",", ":")) for c in node[3:]]
        head = json.dumps(node[:3], separators=(",", ":"))[:-1]
        done = [",".join([head, *parts]) + "]"]
        if above is not None:
            above.append([name_of(node), 0, node[2], done[0]])
    return (done[0] + "\n").encode("ascii")


def name_of(node):  # type: ignore[no-untyped-def]
    return node[0]


def make_hostile(root: Path, seed: int = 0, size: int = 60) -> None:
    """A tree with every kind of entry and name that a file system allows."""
    draw = random.Random(seed)
    os.makedirs(root)
    places = [os.fsencode(root)]
    names = [
        *ODD_NAMES,
        *[f"n{i}".encode() for i in range(size)],
        *[bytes([0x80 + i, 0x62]) for i in range(0, 0x80, 7)],
    ]
    # Around the code points where the order of bytes and of Python's str differ.
    names += [
        "\ud7ff".encode(),
        "\ue000".encode(),
        "\U00010000".encode(),
        "\uffff".encode(),
        b"\xed\xa0\x80",
        b"\xf4\x90",
    ]
    for name in draw.sample(names, len(names)):
        path = os.path.join(draw.choice(places), name)
        kind = draw.random()
        if os.path.lexists(path):
            continue
        if kind < 0.3:
            os.mkdir(path)
            places.append(path)
        elif kind < 0.7:
            with open(path, "wb") as stream:
                stream.truncate(draw.choice((0, 1, 255, 256, 10**6, 2**40)))
            os.utime(path, ns=(0, draw.randrange(-(10**18), 2 * 10**18)))
        elif kind < 0.76:
            os.mkfifo(path)
        elif kind < 0.8 and len(path) < 100:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path)
        else:
            os.symlink(draw.choice([b"nowhere", b"/etc/passwd", b".", name, b".."]), path)
    (root / "sparse").write_bytes(b"")
    os.truncate(root / "sparse", 15 << 40)
    os.link(root / "sparse", root / "second-name")
    (root / "empty").mkdir()
