"""The walk in Python, for machines without a compiler; the interface of ``lading.crawl.walk.Walker``.

Input: a root and settings. Output: a record per directory, its files already
as text. Invariant: the same bytes as the compiled walk.

One thread walks while the file system answers from memory, since Python's
threads only get in each other's way there; more of them while it makes them wait.
"""

import errno
import gc
import os
import pickle
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quote

from lading.crawl.glob import compile_globs
from lading.crawl.walk import NCDU, SNAPSHOT, SNAPSHOTS, TREE, Options, root_name
from lading.times import mtime_of

# Below the first share of a processor the file system makes the threads wait and more of them pay;
# above the second they wait for the interpreter, and fewer are faster. Looked at once in so many seconds.
WAITING, CROWDED, LOOK = 0.5, 0.9, 0.05
# Bytes of a path that one call may take; deeper directories are opened in hops.
HOP = 3900
_GONE = (errno.ENOENT, errno.ENOTDIR)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK

# A file before it is text: name, size, mtime, 512-byte blocks, (device, inode) if it has more names.
File = tuple[str, int, int, int, tuple[int, int] | None]


@dataclass(slots=True)
class Record:
    """A directory as found: names of children by kind, the files' bytes and text."""

    directories: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    files: list[File] | str = ""
    file_count: int = 0
    own: int = 0
    vanished: bool = False
    total: int = 0
    entries: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A directory to list: its path below the root with a final ``/`` and, if links are followed, all above it."""

    path: str
    depth: int
    ancestors: tuple[tuple[int, int], ...] = ()


_SNAPSHOTS = frozenset(SNAPSHOTS)


class PlainWalker:
    """One walk; see ``lading.crawl.walk.Walker`` for the methods."""

    def __init__(self, root: str, options: Options, *, seed: bool = True) -> None:
        status = os.stat(root)
        os.scandir(root).close()
        self._options = options
        self._name = root_name(root) if options.form == TREE else os.path.abspath(root)
        self._prefix = root if root.endswith("/") else root + "/"
        self._device = status.st_dev
        self._inodes = options.hard_links == "once" or options.form == NCDU
        self._late = options.hard_links == "once"
        # Nothing but the size of a file is wanted.
        self._plain = not self._inodes and not options.mtime
        self._excluded = compile_globs(options.exclude)
        self._lock = threading.Condition()
        self._waiting: deque[Place] = deque([Place("", 0)] if seed else [])
        self._outstanding = len(self._waiting)
        self._threads: list[threading.Thread] = []
        self._working, self._allowed = 0, 1
        self._looked, self._used = time.monotonic(), time.process_time()
        self._stopping = self._ending = False
        self._failure: BaseException | None = None
        self._records: dict[str, Record] = {}
        self._refused: set[str] = set()
        self._gone: set[str] = set()
        self._faults: list[tuple[str, int]] = []
        self._entries = self._bytes = 0
        self._current: dict[int, tuple[str, float]] = {}
        self._slowest: tuple[str, float] | None = None
        self._logged: list[str] = []
        self._borrowed: list[str] = []
        self._next_slot = 0.0
        self._pieces: Iterator[str] | None = None

    # -- threads --

    def start(self) -> None:
        """Start the first thread; the others follow when the file system is slow."""
        gc.disable()  # the records hold no cycles, and scanning them all again and again doubles the time
        self._add_thread()

    def _adapt(self) -> None:
        """Double the threads or halve them by how much the processor is used. Lock held."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        used = time.process_time()
        share = (used - self._used) / (now - self._looked)
        self._looked, self._used = now, used
        if share > CROWDED:
            self._allowed = max(1, self._allowed // 2)
        elif share < WAITING and self._waiting and self._working >= self._allowed < self._options.workers:
            self._allowed = min(2 * self._allowed, self._options.workers)
            while len(self._threads) < self._allowed:
                self._add_thread()
            self._lock.notify(self._allowed - self._working)

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        try:
            while (place := self._next()) is not None:
                if not self._stopping:
                    self._list(place)
                with self._lock:
                    self._adapt()
                    self._working -= 1
                    self._outstanding -= 1
                    if not self._outstanding:
                        self._lock.notify_all()
        except BaseException as error:  # noqa: BLE001 - it is raised in the main thread by wait()
            with self._lock:
                self._failure = error
                self._stopping = True
                self._lock.notify_all()

    def _next(self) -> Place | None:
        with self._lock:
            self._current.pop(threading.get_ident(), None)
            while not self._ending and (not self._waiting or self._working >= self._allowed):
                self._lock.wait()
            if self._ending:
                return None
            self._working += 1
            return self._waiting.pop()

    def wait(self, seconds: float) -> bool:
        """Return after ``seconds``, or with True as soon as nothing is left to do here."""
        with self._lock:
            self._lock.wait_for(lambda: self._failure or not self._outstanding, seconds)
            if self._failure:
                raise self._failure
            return not self._outstanding

    def stop(self) -> None:
        """Drop what is left."""
        self._stopping = True

    def end(self) -> None:
        """Join the threads."""
        with self._lock:
            self._ending = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()
        gc.enable()

    # -- listing --

    def _open(self, path: str) -> int:
        flags = _DIRECTORY
        if path and self._options.links != "follow":
            flags |= os.O_NOFOLLOW
        if len(path) * 4 < HOP or len(os.fsencode(path)) < HOP:
            return os.open(self._prefix + path[:-1], flags)
        base = os.open(self._prefix, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            rest = os.fsencode(path[:-1])
            while len(rest) > HOP:
                head, _, tail = rest[:HOP].rpartition(b"/")
                base, old = os.open(head, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=base), base
                os.close(old)
                rest = tail + rest[HOP:]
            return os.open(rest, flags, dir_fd=base)
        finally:
            os.close(base)

    def _keep_rate(self) -> None:
        if not self._options.rate:
            return
        with self._lock:
            slot = max(self._next_slot, time.monotonic() - 0.01)
            self._next_slot = slot + 1 / self._options.rate
        time.sleep(max(0.0, slot - time.monotonic()))

    def _list(self, place: Place) -> None:
        options, path = self._options, place.path
        started = time.monotonic()
        self._current[threading.get_ident()] = (path, started)
        record = Record()
        ancestors = place.ancestors
        try:
            self._keep_rate()
            if options.links == "follow" or options.one_file_system:
                status = os.stat(self._prefix + path)
                identity = (status.st_dev, status.st_ino)
                if options.links == "follow":
                    if identity in ancestors:
                        raise OSError(errno.ELOOP, "")
                    ancestors = (*ancestors, identity)
                if options.one_file_system and status.st_dev != self._device:
                    self._records[path] = record
                    return
            descriptor = self._open(path)
        except OSError as error:
            self._refuse(path, error.errno or errno.EIO)
            return
        if place.depth <= options.log_depth:
            self._logged.append(path)
        files: list[File] = []
        try:
            # By descriptor, so that each status looks up one name and not the whole path.
            with os.scandir(descriptor) as entries:
                self._take(record, files, path, entries)
        except OSError as error:
            # Listed in part: what was found stays.
            if error.errno == errno.ENOENT:
                record.vanished = True
            else:
                self._faults.append((path.rstrip("/"), error.errno or errno.EIO))
        finally:
            os.close(descriptor)
        if self._stopping:
            return
        self._finish(place, record, files, ancestors)
        took = time.monotonic() - started
        if self._slowest is None or took > self._slowest[1]:
            self._slowest = (path, took)

    def _refuse(self, path: str, error: int) -> None:
        if path and (error in _GONE or (error == errno.ELOOP and self._options.links != "follow")):
            self._gone.add(path)
        else:
            self._refused.add(path)
            self._faults.append((path.rstrip("/"), error))

    def _take(self, record: Record, files: list[File], path: str, entries: "Iterator[os.DirEntry[str]]") -> None:
        """Sort the entries of a directory into kinds. Most are files: those take no further call."""
        excluded, plain, rated = self._excluded, self._plain, bool(self._options.rate)
        is_file, add = stat.S_ISREG, files.append
        for entry in entries:
            if excluded and excluded(entry.name, path + entry.name):
                continue
            if self._stopping:
                return
            try:
                if not entry.is_file(follow_symlinks=False):
                    self._take_other(record, files, path, entry)
                    continue
                if rated:
                    self._keep_rate()
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                self._miss(record, path, entry, error.errno or errno.EIO, follow=False)
                continue
            if not is_file(status.st_mode):
                self._add(record, files, entry.name, status)
            elif plain:
                add((entry.name, status.st_size, 0, 0, None))
            else:
                add(self._detail(entry.name, status))

    def _take_other(self, record: Record, files: list[File], path: str, entry: "os.DirEntry[str]") -> None:
        links = self._options.links
        follow = False
        if entry.is_symlink():
            if links != "follow":
                if links == "record":
                    record.links.append(entry.name)
                return
            follow = True
        elif entry.is_dir(follow_symlinks=False):
            record.directories.append(entry.name)
            return
        self._keep_rate()
        try:
            status = entry.stat(follow_symlinks=follow)
        except OSError as error:
            self._miss(record, path, entry, error.errno or errno.EIO, follow)
            return
        self._add(record, files, entry.name, status)

    def _add(self, record: Record, files: list[File], name: str, status: os.stat_result) -> None:
        mode = status.st_mode
        if stat.S_ISREG(mode):
            files.append(self._detail(name, status))
        elif stat.S_ISDIR(mode):
            record.directories.append(name)
        elif stat.S_ISLNK(mode):
            record.links.append(name)
        else:
            record.others.append(name)

    def _detail(self, name: str, status: os.stat_result) -> File:
        identity = (status.st_dev, status.st_ino) if self._inodes and status.st_nlink > 1 else None
        return name, status.st_size, mtime_of(status), status.st_blocks, identity

    def _miss(self, record: Record, path: str, entry: "os.DirEntry[str]", error: int, follow: bool) -> None:
        if error not in _GONE:
            record.others.append(entry.name)
            self._faults.append((path + entry.name, error))
        elif follow:
            # A dangling link is an entry; it may itself have vanished.
            try:
                entry.stat(follow_symlinks=False)
            except OSError:
                return
            record.others.append(entry.name)

    def _finish(self, place: Place, record: Record, files: list[File], ancestors: tuple[tuple[int, int], ...]) -> None:
        directories = record.directories
        directories.sort()
        if not _SNAPSHOTS.isdisjoint(directories):
            self._faults += [(place.path + name, SNAPSHOT) for name in directories if name in _SNAPSHOTS]
        record.others.sort()
        record.links.sort()
        files.sort()
        count = len(directories) + len(record.others) + len(record.links) + len(files)
        names = {*directories, *record.others, *record.links, *[file[0] for file in files]}
        if len(names) != count:
            files = _drop_doubles(record, files)
        record.own = sum([file[1] for file in files])
        record.file_count = len(files)
        record.files = files if self._late else self._text(files)
        path = place.path
        self._records[path] = record
        with self._lock:
            self._entries += count
            self._bytes += record.own
            if directories:
                self._waiting.extend([Place(f"{path}{name}/", place.depth + 1, ancestors) for name in directories])
                self._outstanding += len(directories)
                if self._allowed > self._working:
                    self._lock.notify(min(len(directories), self._allowed - self._working))

    def _text(self, files: list[File]) -> str:
        if self._options.form == NCDU:
            return "".join([_ncdu_file(file) for file in files])
        if self._options.mtime:
            return "".join([f",[{quote(name)},1,{size},{mtime}]" for name, size, mtime, _, _ in files])
        return "".join([f",[{quote(file[0])},1,{file[1]}]" for file in files])

    # -- what others ask --

    def state(self) -> tuple[int, int, int, int]:
        """Return (entries, bytes, directories waiting, threads without work)."""
        # Threads that were not started yet are without work.
        return self._entries, self._bytes, len(self._waiting), self._options.workers - self._working

    def slowest(self) -> tuple[bytes, float] | None:
        """Return the directory that takes longest now, after the end the one that did, and its seconds."""
        found = self._slowest
        if not self._ending:
            now = time.monotonic()
            current = [(path, now - since) for path, since in self._current.copy().values()]
            found = max(current, key=lambda item: item[1], default=None)
        return (os.fsencode(found[0].rstrip("/")), found[1]) if found else None

    def logged(self) -> list[bytes]:
        """Return the directories down to ``log_depth`` opened since the last call."""
        found, self._logged = self._logged, []
        return [os.fsencode(path.rstrip("/")) for path in found]

    def faults(self) -> list[tuple[bytes, int]]:
        """Return what could not be read with its errno."""
        return [(os.fsencode(path), error) for path, error in self._faults]

    def take(self, most: int) -> list[tuple[int, bytes, int, bytes]]:
        """Lend directories that wait, the oldest first."""
        with self._lock:
            places = [self._waiting.popleft() for _ in range(min(most, len(self._waiting) // 2))]
            self._outstanding -= len(places)
        return [(0, os.fsencode(place.path), place.depth, pickle.dumps(place.ancestors)) for place in places]

    def give(self, rank: int, number: int, path: bytes, depth: int, ancestors: bytes) -> None:
        """Borrow a directory."""
        place = Place(os.fsdecode(path), depth, pickle.loads(ancestors))  # noqa: S301 - from a rank of this job
        with self._lock:
            self._borrowed.append(place.path)
            self._waiting.append(place)
            self._outstanding += 1
            self._lock.notify()

    def shard(self, index: int) -> bytes | None:
        """Return everything found here as the first shard; ``ValueError`` when the walk did not go to its end."""
        self._refuse_part()
        if index or not self._borrowed:
            return None
        return pickle.dumps((self._records, self._refused, self._gone))

    def add_shard(self, rank: int, data: bytes) -> None:
        """Take in what a rank found."""
        records, refused, gone = pickle.loads(data)  # noqa: S301 - from a rank of this job
        self._records.update(records)
        self._refused |= refused
        self._gone |= gone

    # -- the result --

    def _refuse_part(self) -> None:
        if self._failure:
            raise self._failure
        if self._stopping:
            raise ValueError("the walk was stopped: it has no result")

    def settle(self) -> tuple[int, int, int, int, int, int]:
        """Sum up from the leaves; ``ValueError`` when the walk did not go to its end."""
        self._refuse_part()
        records = self._records
        files = links = others = directories = 0
        known: set[tuple[int, int]] = set()
        stack: list[tuple[str, Record, Iterator[str]]] = []
        path = ""
        while True:
            record = records[path]
            record.total, record.entries = 0, 1
            stack.append((path, record, iter(record.directories)))
            while stack:
                path, record, names = stack[-1]
                child = next((f"{path}{name}/" for name in names if f"{path}{name}/" in records), None)
                if child is not None:
                    path = child
                    break
                stack.pop()
                self._close(path, record, known)
                directories += 1
                files += record.file_count
                links += len(record.links)
                others += len(record.others)
                if not stack:
                    root = records[""]
                    if root.total >= 1 << 63:
                        raise OverflowError("the sizes add up to more than 64 bits hold")
                    return root.entries, files, directories, links, others, root.total
                above = stack[-1][1]
                if record.vanished and record.entries == 1:
                    directories -= 1
                    self._gone.add(path)
                else:
                    above.total += record.total
                    above.entries += record.entries

    def _close(self, path: str, record: Record, known: set[tuple[int, int]]) -> None:
        if self._refused or self._gone:
            refused = [name for name in record.directories if f"{path}{name}/" in self._refused]
            if refused or any(f"{path}{name}/" in self._gone for name in record.directories):
                record.directories = [
                    name
                    for name in record.directories
                    if f"{path}{name}/" not in self._refused and f"{path}{name}/" not in self._gone
                ]
                record.others = sorted([*record.others, *refused])
        if isinstance(record.files, list):
            files = []
            for name, size, mtime, blocks, identity in record.files:
                if identity is not None and identity in known:
                    record.own -= size
                    size = 0
                elif identity is not None:
                    known.add(identity)
                files.append((name, size, mtime, blocks, identity))
            record.files = self._text(files)
        record.total += record.own
        record.entries += len(record.others) + len(record.links) + record.file_count

    def render(self, form: int, depth: int, room: int) -> bytes:
        """Return the next piece of text; empty at the end."""
        if self._pieces is None:
            self._pieces = self._write(form, depth)
        parts, length = [], 0
        for piece in self._pieces:
            parts.append(piece)
            length += len(piece)
            if length >= room:
                break
        return "".join(parts).encode("utf-8", "surrogateescape")

    def _write(self, form: int, depth: int) -> Iterator[str]:
        tree = form == TREE
        records = self._records
        other: Callable[[str], str] = (
            (lambda name: f",[{quote(name)},-1,0]")
            if tree
            else (lambda name: f',{{"name":{_quote_raw(name)},"notreg":true}}')
        )
        link = (lambda name: f",[{quote(name)},2,0]") if tree else other
        stack: list[tuple[str, Record, Iterator[str]]] = []

        def begin(path: str, name: str) -> str:
            record = records[path]
            below = depth < 0 or len(stack) < depth
            stack.append((path, record, iter(record.directories if below else ())))
            head = f"[{quote(name)},0,{record.total}" if tree else f'[{{"name":{_quote_raw(name)}}}'
            return head + "".join(map(other, record.others)) if below else head

        yield begin("", self._name)
        while stack:
            path, record, names = stack[-1]
            name = next(names, None)
            if name is not None:
                yield "," + begin(f"{path}{name}/", name)
                continue
            stack.pop()
            if depth < 0 or len(stack) < depth:
                assert isinstance(record.files, str)
                yield f"{record.files}{''.join(map(link, record.links))}]"
            else:
                yield "]"
        yield "\n"


def _drop_doubles(record: Record, files: list[File]) -> list[File]:
    """A directory that changes while it is read may list a name twice: keep the first in canonical order."""
    seen: set[str] = set()

    def fresh(name: str) -> bool:
        return not (name in seen or seen.add(name))  # type: ignore[func-returns-value]

    record.others = [name for name in record.others if fresh(name)]
    record.directories = [name for name in record.directories if fresh(name)]
    files = [file for file in files if fresh(file[0])]
    record.links = [name for name in record.links if fresh(name)]
    return files


def _quote_raw(name: str) -> str:
    # ncdu wants the bytes of a name as they are, and escapes only where JSON must.
    return "".join([c if ord(c) >= 0x80 else quote(c)[1:-1] for c in name]).join('""')


def _ncdu_file(file: File) -> str:
    name, size, _, blocks, identity = file
    inode = f',"ino":{identity[1]},"hlnkc":true' if identity else ""
    return f',{{"name":{_quote_raw(name)},"asize":{size},"dsize":{blocks * 512}{inode}}}'
