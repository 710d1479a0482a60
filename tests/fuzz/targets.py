"""What each compiled module is fuzzed with: how bytes become calls, and what the answers must be.

Input: bytes of libFuzzer. Output: nothing, or an exception, which is a finding.
Invariant: an oracle is Python's own (json, hashlib, numpy) or the answer to the
same question put another way; it knows nothing of how the C does it.
"""

import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from awscrt import checksums

from lading.core.errors import LadingError
from lading.crawl import list_forms
from lading.crawl.options import Options
from lading.crawl.python_listing import PythonListing
from lading.tree import json_reader as treefile
from lading.tree.globs import pack_globs, parse_glob

Judge = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """A module, its C files that are reached, and what makes a judge of the module and of the fuzzer beside it."""

    module: str
    sources: tuple[str, ...]
    judge: Callable[[Any, Any], Judge]
    seeds: Callable[[], Iterator[bytes]]
    longest: int = 4096
    fake_files: bool = False


# -- the crawl --

ALPHABET = "ab*?[]!-é\udcff/."


def _globs(data: bytes) -> Any:
    text = "".join(ALPHABET[byte % len(ALPHABET)] for byte in data)
    try:
        return pack_globs((parse_glob(text),))
    except LadingError:
        return pack_globs(())


def _check_tree(node: list[Any], timed: bool) -> tuple[int, int]:
    """Return (nodes, bytes) of a nested list; canonical, or AssertionError."""
    nodes = total = 0
    last: tuple[int, str] | None = None
    names = set()
    for child in node[3:]:
        name, kind = child[:2]
        assert last is None or last < (kind, name), "order"
        assert name not in names, "a name twice"
        names.add(name)
        last = kind, name
        found = _check_tree(child, timed) if kind == 0 else (1, child[2])
        assert kind == 0 or len(child) == (4 if timed and kind == 1 else 3)
        nodes, total = nodes + found[0], total + found[1]
    assert node[2] == total, "sum"
    return nodes + 1, total


def _text(walker: Any, form: int, depth: int, room: int) -> bytes:
    pieces = []
    while piece := walker.render(form, depth, room):
        pieces.append(piece)
    return b"".join(pieces)


def _drain(walker: Any) -> None:
    while not walker.wait(0.01):
        walker.logged(), walker.slowest(), walker.state()
    walker.end()
    walker.faults()


def _share(walkers: list[Any], damage: bytes) -> None:
    """Let two walkers do one walk and join what they found; one byte of each shard is another if ``damage``."""
    for walker in walkers:
        walker.start()
    while not all(walker.wait(0) for walker in walkers):
        for rank, walker in enumerate(walkers):
            for item in walker.take(3):
                walkers[1 - rank].give(rank, *item)
    for walker in walkers:
        walker.end()
    for rank, walker in enumerate(walkers):
        index = 0
        while (shard := walker.shard(index)) is not None:
            if damage:
                changed = bytearray(shard)
                changed[int.from_bytes(damage[:2]) % len(changed)] ^= damage[2] | 1
                shard = bytes(changed[: len(changed) - damage[2] % 3])
            walkers[0].add_shard(rank, shard)
            index += 1


def _walk_once(make: Callable[[bool], Any], how: int, damage: bytes) -> tuple[Any, tuple[int, ...]] | None:
    """Return a settled walk and its counts, or None for one that has no result."""
    walkers = [make(True)]
    if how == 0:  # dropped as it is
        return None
    if how >= 12:
        walkers.append(make(False))
        try:
            _share(walkers, damage)
            return walkers[0], walkers[0].settle()
        except ValueError:
            assert damage, "a walk by two lost work"
            return None
        except OverflowError:
            return None
    walkers[0].start()
    if how == 1:  # dropped while it runs
        return None
    if how == 2:
        walkers[0].stop()
    if how == 3:
        walkers[0].end()  # perhaps too soon
    else:
        _drain(walkers[0])
    try:
        return walkers[0], walkers[0].settle()
    except ValueError:
        assert how in (2, 3), "a walk to its end has no result"
    except OverflowError:
        pass
    return None


def judge_walk(module: Any, fuzz: Any) -> Judge:
    """A walk of a file system that the bytes stand for: alone or by two ranks, to its end or not, as text."""

    def check(data: bytes) -> None:
        flags, damage = data[2], data[4:7] if data[7] < 64 else b""
        form, mtime, once = flags & 1, bool(flags & 2), bool(flags & 4)
        globs = _globs(data[8:16]) if flags & 16 else pack_globs(())

        def make(seed: bool) -> Any:
            more = (2 if once else form, bool(flags & 8), globs, 0.0, data[7] % 4 - 1, seed)
            return module.Walker(b"/", b"root", 1 + data[3] % 3, data[1] % 3, mtime, form == 1, *more)

        found = _walk_once(make, data[0] % 16, damage)
        if found is None:
            return
        walker, counts = found
        text = _text(walker, form, data[3] % 5 - 1 if flags & 32 else -1, 2048 + 8 * data[3])
        listed = 0
        for which in (0, 1):
            while block := walker.entries(which, 1 << 20):
                listed += block.count(b"\0")
        assert damage or listed == counts[0], "entries by name"
        node = json.loads(text.decode("utf-8", "surrogateescape"))
        if form == 0 and not flags & 32 and not damage:
            assert _check_tree(node, mtime) == (counts[0], counts[5])
            assert counts[0] == sum(counts[1:5])

    def judge(data: bytes) -> None:
        if len(data) < 24:
            return
        fuzz.begin(data[16:])
        check(data)
        assert fuzz.left() == 0, f"{fuzz.left()} descriptors are left open"

    return judge


def seeds_of_walks() -> Iterator[bytes]:
    """Different ways to walk different noise."""
    for way in range(16):
        for turn in range(4):
            yield bytes([way, way % 3, 7 * way % 64, way]) + hashlib.sha512(bytes([way, turn])).digest() * (1 + turn)
    # A name twice in a borrowed directory, the second of them lent on.
    yield bytes.fromhex("0d255aae70603cbb00b17401020000000000000041b2d5f399b7")


def judge_shard(module: Any, fuzz: Any) -> Judge:
    """Bytes as shards: taken or refused, and nothing of a refused one is used."""

    def judge(data: bytes) -> None:
        if len(data) < 4:
            return
        fuzz.begin(b"")
        flags = data[0]
        size = 2 if flags & 2 else int(bool(flags & 4))
        walker = module.Walker(b"/", b"root", 1, 0, bool(flags & 1), False, size, False, b"", 0.0, -1, True)
        walker.start()
        _drain(walker)
        cut = 3 + int.from_bytes(data[1:3]) % (len(data) - 3)
        try:
            for shard in (data[3:cut], data[cut:]):
                if shard:
                    walker.add_shard(1, shard)
            walker.settle()
            assert json.loads(_text(walker, 0, -1, 2048))[0] == "root"
        except (ValueError, OverflowError):
            pass

    return judge


def seeds_of_shards() -> Iterator[bytes]:
    """A record that holds a file of five bytes and one that holds nothing, alone and one after the other."""
    head = b"".join(number.to_bytes(4, "little") for number in (1, 0, 0))

    def record(blob: bytes, own: int, counts: tuple[int, ...]) -> bytes:
        numbers = b"".join(count.to_bytes(4, "little") for count in counts)
        return len(blob).to_bytes(8, "little") + own.to_bytes(8, "little") + numbers + bytes(32) + blob

    file, folder = bytes([2 | 1 << 2, 5]) + b"name\0", bytes([1]) + bytes(8) + b"sub\0"
    yield bytes(3) + head + record(b"", 0, (0, 0, 0, 0))
    yield bytes(3) + head + record(file, 5, (0, 0, 1, 0))
    yield bytes(3) + head + record(folder + file, 5, (0, 1, 1, 0)) + record(file, 5, (0, 0, 1, 0))


def judge_known(module: Any, fuzz: Any) -> Judge:
    """A walk, and one that knows it: the same bytes; with a number of the columns changed, a tree or a refusal."""

    def make(seed: bool, mtime: bool, workers: int) -> Any:
        return module.Walker(b"/", b"root", workers, 0, mtime, False, 0, False, pack_globs(()), 0.0, -1, seed, True)

    def stamps_of(walker: Any) -> bytes:
        return b"".join(iter(lambda: walker.stamps((1 << 63) - 1, 96), b""))

    def know(walker: Any, columns: list[Any]) -> Any:
        walker.know(*columns)
        return walker

    def check(data: bytes) -> None:
        fuzz.begin(data[8:])
        mtime, workers, place = bool(data[0] & 1), 1 + data[1] % 3, data[2] % 14
        first = make(True, mtime, workers)
        first.start()
        _drain(first)
        try:
            first.settle()
        except OverflowError:
            return
        text = _text(first, 0, -1, 2048)
        tree = treefile._Reader(Path("find.json")).read(io.BytesIO(text)).tree
        names, times = bytearray(tree.names), tree.mtimes if mtime else None
        if mtime and times is None:
            return  # no file has one
        columns = [tree.types, tree.sizes, tree.ends, names, tree.offsets, times, bytearray(stamps_of(first))]
        damaged = place < 7 and bool(columns[place])
        if damaged:
            column: Any = columns[place]
            column[data[3] % len(column)] = data[4] % 128 if data[5] & 1 else 0
        del first  # with its descriptor
        fuzz.begin(data[8:])
        again = [make(True, mtime, workers), make(False, mtime, workers)]
        try:
            for walker in again:
                know(walker, columns)
            _share(again, b"")
            again[0].settle()
        except OverflowError:
            return
        except ValueError:
            assert damaged, "a walk of the same lost work"
            return
        # Not the same bytes: the made-up file system has no more directories after some number of calls.
        node = json.loads(_text(again[0], 0, -1, 2048).decode("utf-8", "surrogateescape"))
        assert damaged or _check_tree(node, mtime)
        assert len(stamps_of(again[0])) % 24 == 0

    def judge(data: bytes) -> None:
        if len(data) < 24:
            return
        check(data)
        assert fuzz.left() == 0, f"{fuzz.left()} descriptors are left open"

    return judge


def seeds_of_known() -> Iterator[bytes]:
    """Walks of noise, known whole and with a number changed in each column."""
    for turn in range(28):
        yield (
            bytes([turn % 2, turn, turn % 14, 3 * turn, turn, turn % 3, 0, 0]) + hashlib.sha512(bytes([turn])).digest()
        )


def judge_list(module: Any, fuzz: Any) -> Judge:
    """Bytes as a list in each form, in pieces: the errors of Python's reader, and its tree where there are none."""
    printed = (r"%y %s %T@ %p\n", r"%y %s %T@ %P\0", "gpfs", "gpfs-percent", "lester")
    known = [list_forms.parse_form(text) for text in printed]
    known.append(list_forms.with_columns(list_forms.parse_form("csv"), ["type", "parent_path", "name", "size", "x"]))

    def judge(data: bytes) -> None:
        if len(data) < 4:
            return
        fuzz.begin(b"")
        form, step, data = known[data[0] % len(known)], 1 + data[1], data[2:]
        prefix = None if form.below else b"/r"
        plain = PythonListing(Options(mtime=form.has_times, exclude=(parse_glob("*x"),)), form, prefix)
        globs = pack_globs((parse_glob("*x"),))
        walker = module.Walker(b"/", b"root", 1, 0, form.has_times, False, 0, False, globs, 0.0, -1, False)
        walker.list_begin(form.kind, form.end, form.escapes, form.comments, prefix, form.program)
        answers = []
        for feed, end in ((plain.feed, plain.end), (walker.list_feed, walker.list_end)):
            rest = b""
            for at in range(0, len(data), step):
                rest += data[at : at + step]
                rest = rest[feed(rest, False) :]
            feed(rest, True)
            answers.append(end())
        assert answers[0] == answers[1], answers
        if not answers[0][0]:
            walker.settle()
            json.loads(_text(walker, 0, -1, 2048))

    return judge


def seeds_of_lists() -> Iterator[bytes]:
    """A whole list of each form."""
    for number, text in enumerate(
        (
            b"f 5 1.5 /r/a/b\nd 0 1.0 /r/a\n",
            b"f 5 1.5 a/b\0d 0 -1.0 a\0",
            b"1 2 3  -rw-r--r-- 5 -- /r/a\\n\n1 2 3 drwxr-xr-x 5 x -- /r/b\n",
            b"1 2 3  -rw-r--r-- 5 -- /r/a%41\n",
            b"#IDENT#|\n1|2|3|0|0|100644|5|7||/r/a\n1|2|3|0|0|40755|5|7||/r/b\n#complete#1\n",
            b'f,/r,"a""b",5,\ndir,/r,a,,1\n',
        )
    ):
        yield bytes([number, 7]) + text


# -- the tree's reader --


def judge_tree(module: Any, fuzz: Any) -> Judge:
    """A text in one piece and in two: the same answer, and none where the Python reader has another."""

    def read(*pieces: bytes) -> Any:
        reader = module.Reader()
        return all(reader.feed(piece) for piece in pieces) and reader.finish()

    def judge(data: bytes) -> None:
        cut = data[0] * len(data) // 255 if data else 0
        text = data[1:]
        found = read(text)
        assert (found or None) == (read(text[:cut], text[cut:]) or None), "pieces matter"
        if not found:
            return
        wanted = treefile._Reader(Path("find.json")).read(io.BytesIO(text)).tree
        times = None if wanted.mtimes is None else wanted.mtimes.tobytes()
        columns = (wanted.types, wanted.sizes, wanted.ends, wanted.names, wanted.offsets)
        assert tuple(map(bytes, found[:5])) == tuple(bytes(memoryview(column)) for column in columns)
        assert (None if found[5] is None else bytes(found[5])) == times

    return judge


def seeds_of_trees() -> Iterator[bytes]:
    """Small trees of every kind of node and name."""
    for tree in (
        ["r", 0, 0],
        ["r", 0, 3, ["d", 0, 3, ["f", 1, 3], ["l", 2, 0]], ["x", -1, 0]],
        ["r", 0, 12, ["a", 1, 5, 1700000000123456789], ["b", 1, 7, -5]],
        ["r\udcff", 0, 0, ['"\\\n\u20ac', -1, 0], ["\U0001f600", -1, 0], ["\udc80", -1, 0]],
        ["r", 0, (1 << 62) + 1, ["a", 1, 1], ["b", 1, 1 << 62]],
    ):
        yield b"\x55" + json.dumps(tree, separators=(",", ":")).encode() + b"\n"


# -- digests --


def judge_digests(module: Any, fuzz: Any) -> Judge:
    """Files of sizes and parts that the bytes say, some of them none, against hashlib's and awscrt's digests."""
    memory = Path("/dev/shm")
    top = Path(tempfile.mkdtemp(prefix="lading-fuzz-", dir=memory if os.access(memory, os.W_OK) else None))
    (top / "folder").mkdir()
    (top / "link").symlink_to("0")
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)

    def judge(data: bytes) -> None:
        if len(data) < 8:
            return
        flags, tasks, wanted = data[0], [], []
        below = bool(flags & 1)
        for number, at in enumerate(range(1, min(len(data) - 4, 140), 5)):
            kind, high, low, more, part = data[at], data[at + 1], data[at + 2], data[at + 3], 64 * data[at + 4]
            if kind >= 250:
                name = (b"folder", b"link", b"../x", b"none", b"folder/none")[kind % 5]
                answer: Any = OSError
            else:
                # Sizes near the edges of blocks and of buffers count most.
                size = (high << 8 | low) + (65536 if more >= 192 else 0) if kind >= 128 else 64 * (high % 8) + low % 3
                part = part if size <= 40 * part else 0
                content = (data[at:] * (size // len(data[at:]) + 1))[:size]
                name = str(number).encode()
                (top / name.decode()).write_bytes(content)
                answer = content
            tasks.append((name if below else os.fsencode(top) + b"/" + name, part))
            wanted.append(answer)
        stop = bytearray([flags >> 7])
        paths = ["none", *module.paths()]
        path = paths[(flags >> 2 & 15) % len(paths)]
        found = module.digest_files(tasks, stop, root if below else -1, bool(flags & 2), path)
        contents = [content for content in wanted if content is not OSError]
        if path != "none":
            summed = [hashlib.sha256(content).digest() for content in contents]
            assert module.sha256_buffers(contents, path) == summed
        for answer, content, (name, part) in zip(found, wanted, tasks):
            if stop[0]:
                assert answer == errno.ECANCELED or content is OSError, (name, answer)
            elif content is OSError:
                assert isinstance(answer, int) or (name.endswith(b"link") and (flags & 2 or not below)), name
            else:
                _check_digests(answer, content, part, with_sha=path != "none")

    return judge


def _check_digests(answer: Any, content: bytes, part: int, *, with_sha: bool) -> None:
    pieces = [content[at : at + part] for at in range(0, len(content), part)] if 0 < part < len(content) else [content]
    md5s, md5, sha256, crc, before, after = answer
    assert md5s == b"".join(hashlib.md5(piece, usedforsecurity=False).digest() for piece in pieces)
    assert md5 == hashlib.md5(content, usedforsecurity=False).digest()
    assert sha256 == (hashlib.sha256(content).digest() if with_sha else None)
    assert crc == checksums.crc64nvme(content)
    assert before == after
    assert before[0] == len(content)


def seeds_of_digests() -> Iterator[bytes]:
    """Several files of several kinds."""
    for turn in range(12):
        yield bytes([turn % 4 + 4 * (turn % 6)]) + hashlib.sha512(bytes([turn])).digest() * (1 + turn % 3)


# -- means of voxels --


def judge_mean(module: Any, fuzz: Any) -> Judge:
    """Blocks of any shape, step and type against numpy's sums."""

    def judge(data: bytes) -> None:
        if len(data) < 8:
            return
        dtype = np.dtype(("u1", "<u2", "<u4")[data[0] % 8 % 3])
        shape = [data[1 + axis] % 12 for axis in range(3 if data[0] < 240 else 2)]
        steps = [1 + (data[4] >> axis & 1) for axis in range(len(shape))]
        count = int(np.prod([length * step for length, step in zip(shape, steps)]))
        raw = np.frombuffer((data[5:] * (count * dtype.itemsize // len(data[5:]) + 1))[: count * dtype.itemsize], dtype)
        block = raw.reshape([length * step for length, step in zip(shape, steps)])
        block = block[tuple(slice(None, None, step) for step in steps)][:: -1 if data[4] & 8 else 1]
        compare_blocks(module, block, data[4])
        odd = data[4] & 16
        out = np.full(max(0, block.size // 8 + (1 if odd else 0)), 7, dtype)
        try:
            module.halve(block, out)
        except ValueError:
            plain = block.ndim == 3 and dtype.itemsize < 4 and block.strides[2] == dtype.itemsize
            assert not plain or odd or any(length % 2 for length in shape), "refused"
            return
        wide = block.astype("u4")
        total = sum(wide[z::2, y::2, x::2] for z in (0, 1) for y in (0, 1) for x in (0, 1))
        assert np.array_equal(out, ((total + 4) >> 3).astype(dtype).reshape(-1))

    return judge


def compare_blocks(module: Any, block: "np.ndarray[Any, Any]", turn: int) -> None:
    """A block beside a copy of it, whole and with one voxel changed."""
    copy = np.array(block)
    if copy.size and turn & 32:
        copy.reshape(-1)[turn % copy.size] ^= 1
    try:
        found = module.same(block, copy)
    except ValueError:
        assert block.ndim != 3 or block.strides[2] != block.itemsize, "refused"
        return
    assert found == np.array_equal(block, copy)


def seeds_of_means() -> Iterator[bytes]:
    """Even and odd blocks of both types."""
    for turn in range(8):
        yield bytes([turn, 2 + turn, 4, 2 * turn, turn]) + hashlib.sha512(bytes([turn])).digest()


TARGETS = {
    "walk": Target(
        "lading.crawl._walk",
        ("_walk.c", "names.c", "paths.c", "pack.c", "scan.c", "render.c"),
        judge_walk,
        seeds_of_walks,
        fake_files=True,
    ),
    "shard": Target("lading.crawl._walk", ("shard.c",), judge_shard, seeds_of_shards, fake_files=True),
    "known": Target("lading.crawl._walk", ("known.c",), judge_known, seeds_of_known, fake_files=True),
    "list": Target("lading.crawl._walk", ("listing.c",), judge_list, seeds_of_lists, fake_files=True),
    "tree": Target("lading.tree._treefile", ("_treefile.c",), judge_tree, seeds_of_trees),
    "digest": Target(
        "lading.checksums._digest",
        ("_digest.c", "md5.c", "sha256.c", "few_files.c", "crc64.c"),
        judge_digests,
        seeds_of_digests,
        longest=512,
    ),
    "mean": Target("lading.compress.imaging._mean", ("_mean.c",), judge_mean, seeds_of_means, longest=512),
}
