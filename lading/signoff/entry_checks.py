"""What is wrong with one entry: its name, its mode, its times, what it is, where it leads.

Input: names, stats, rules. Output: (kind, what there is to say) of each fault.
Invariant: no call of the system but for the target of a link. A check that is off costs nothing.
"""

import errno
import os
import re
import stat
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from lading.core.progress import counted
from lading.crawl.account_names import group_name, user_name
from lading.objectstore.capacity import KEY_BYTES, OBJECT_BYTES
from lading.objectstore.keys import encode_key
from lading.signoff.fault_kinds import ExpectedState, SignoffRules, show_account

Fault = tuple[str, str]

# What stays behind: of editors, of NFS, of macOS and Windows, of programs that were killed, of copies that broke off.
_LEFTOVER = re.compile(
    r".*~|#.*#|\.#.*|.*\.(?:sw[a-p]|tmp|temp|part|partial|filepart|crdownload|bak|orig|rej)|\.nfs[0-9a-f]{8,}"
    r"|\.fuse_hidden[0-9a-f]+|core(?:\.\d+)?|\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.lading-.*"
    r"|\..+\.[A-Za-z0-9]{6}",
    re.DOTALL,
)
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_WINDOWS = re.compile(r'[<>:"\\|?*]')
_AVOIDED = re.compile(r'[\\{}^%`\]\[">~<#|]')
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[1-9¹²³]|lpt[1-9¹²³])(?:\..*)?", re.IGNORECASE | re.DOTALL)
WINDOWS_PATH = 240  # of 260, with a drive and a directory before it
YEAR_1980 = 315_532_800 * 10**9
AHEAD_NS = 300 * 10**9  # clocks of file servers differ
_KINDS = {
    stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device",
}  # fmt: skip


class EntryChecks:
    """The checks that are on. Safe to use from many threads."""

    def __init__(self, rules: SignoffRules, now_ns: int | None = None) -> None:
        self.wanted = rules.wanted
        self._expected: ExpectedState = rules.expected
        self._now_ns = time.time_ns() if now_ns is None else now_ns
        self._prefix_bytes = len(rules.expected.prefix.encode("utf-8", "surrogateescape"))

    def _chosen(self, faults: Iterable[Fault]) -> Iterator[Fault]:
        return (fault for fault in faults if fault[0] in self.wanted)

    def name(self, path: str) -> Iterator[Fault]:
        """Yield what is wrong with the name at the end of a path, or with the path's length."""
        name = path.rpartition("/")[2]
        if self._prefix_bytes + len(path) <= WINDOWS_PATH and _PLAIN.fullmatch(name) and not name.endswith("."):
            faults: Iterable[Fault] = ()
            lowered = name[:4].lower()
            if lowered[:3] in _SHORT or lowered == "core" or "." in name or name in _LEFT:
                faults = self._odd(name)
            return self._chosen(faults)
        return self._chosen([*self._odd(name), *self._strange(name), *self._long(path)])

    @staticmethod
    def _odd(name: str) -> Iterator[Fault]:
        if name.startswith("."):
            yield "hidden", ""
        if _LEFTOVER.fullmatch(name):
            yield "leftover", ""
        if _DEVICE.fullmatch(name):
            yield "windows-name", ""
        if name.endswith((".", " ")):
            yield "windows-ending", ""

    @staticmethod
    def _strange(name: str) -> Iterator[Fault]:
        if _SURROGATE.search(name):
            yield "not-utf8", ""
        if found := _CONTROL.search(name):
            yield "control-character", f"U+{ord(found[0]):04X}"
        if found := _WINDOWS.search(name):
            yield "windows-character", found[0]
        if found := _AVOIDED.search(name):
            yield "avoided-character", found[0]
        if name.startswith("-"):
            yield "leading-dash", ""
        if name != name.strip():
            yield "outer-space", ""
        if not name.isascii() and not unicodedata.is_normalized("NFC", name):
            yield "not-composed", ""

    def _long(self, path: str) -> Iterator[Fault]:
        size = self._prefix_bytes + len(encode_key(path).encode("utf-8", "surrogateescape"))
        if size > KEY_BYTES:
            yield "long-key", f"{size:,} bytes"
        if len(path) > WINDOWS_PATH:
            yield "windows-length", counted(len(path), "character")

    def names(self, names: Sequence[str]) -> Iterator[tuple[str, str, str]]:
        """Yield (name, kind, detail) of the names of one directory that collide, all but the first of each group."""
        folded: dict[str, list[str]] = defaultdict(list)
        for name in names:
            folded[name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()].append(name)
        if len(folded) == len(names):
            return
        for group in folded.values():
            first, *others = sorted(group)
            for other in others:
                one, two = (unicodedata.normalize("NFC", name) for name in (first, other))
                kind = "unicode-collision" if one == two else "case-collision"
                if kind in self.wanted:
                    yield other, kind, f"beside {first}"

    def directory(self, status: os.stat_result, entries: int, device: int) -> Iterator[Fault]:
        """Yield what is wrong with a directory that has so many entries; ``device``: that of the root."""
        return self._chosen(self._directory(status, entries, device))

    def _directory(self, status: os.stat_result, entries: int, device: int) -> Iterator[Fault]:
        expected, bits = self._expected, stat.S_IMODE(status.st_mode)
        yield from self._access(status)
        if expected.directory_mode is not None and bits != expected.directory_mode:
            yield "directory-mode", f"{bits:04o}, expected {expected.directory_mode:04o}"
        if bits & 0o055 == 0:
            yield "private", f"{bits:04o}"
        if not entries:
            yield "empty-directory", ""
        if expected.crowd is not None and entries > expected.crowd:
            yield "crowded", counted(entries, "entry", "entries")
        if status.st_dev != device:
            yield "mount", ""

    def file(self, status: os.stat_result) -> Iterator[Fault]:
        """Yield what is wrong with a regular file."""
        return self._chosen(self._file(status))

    def _file(self, status: os.stat_result) -> Iterator[Fault]:
        expected, bits = self._expected, stat.S_IMODE(status.st_mode)
        yield from self._access(status)
        if expected.file_mode is not None and bits != expected.file_mode:
            yield "file-mode", f"{bits:04o}, expected {expected.file_mode:04o}"
        if bits & 0o044 == 0:
            yield "private", f"{bits:04o}"
        if bits & 0o111:
            yield "executable", f"{bits:04o}"
        if bits & 0o6000:
            yield "set-id", f"{bits:04o}"
        if status.st_size == 0:
            yield "empty-file", ""
        if status.st_nlink > 1:
            yield "hard-link", f"{status.st_nlink:,} names"
        if status.st_size > OBJECT_BYTES:
            yield "too-large", f"{status.st_size:,} bytes"
        if status.st_blocks * 512 < status.st_size:
            yield "sparse", f"{status.st_blocks * 512:,} of {status.st_size:,} bytes"
        yield from self._times(status)

    def _times(self, status: os.stat_result) -> Iterator[Fault]:
        mtime, freeze = status.st_mtime_ns, self._expected.freeze_ns
        if mtime > self._now_ns + AHEAD_NS:
            yield "future", show_time(mtime)
        if mtime < YEAR_1980:
            yield "no-time", show_time(mtime)
        if freeze is not None and mtime > freeze:
            yield "newer-than-freeze", show_time(mtime)
        elif freeze is not None and status.st_ctime_ns > freeze:
            yield "changed-after-freeze", show_time(status.st_ctime_ns)

    def _access(self, status: os.stat_result) -> Iterator[Fault]:
        expected, bits = self._expected, stat.S_IMODE(status.st_mode)
        if expected.owner is not None and status.st_uid != expected.owner:
            yield "owner", show_account(status.st_uid, user_name(status.st_uid))
        if expected.group is not None and status.st_gid != expected.group:
            yield "group", show_account(status.st_gid, group_name(status.st_gid))
        if user_name(status.st_uid) is None:
            yield "unknown-owner", str(status.st_uid)
        if group_name(status.st_gid) is None:
            yield "unknown-group", str(status.st_gid)
        yield ("world-readable" if bits & 0o004 else "not-world-readable"), f"{bits:04o}"
        if bits & 0o002:
            yield "world-writable", f"{bits:04o}"
        if bits & 0o020:
            yield "group-writable", f"{bits:04o}"
        if bits & 0o200:
            yield "owner-writable", f"{bits:04o}"

    def other(self, status: os.stat_result) -> Iterator[Fault]:
        """Yield what an entry is that is neither file, directory nor link."""
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "device")
        return self._chosen([(kind, "")])

    def link(self, path: str, name: str, directory: int, real_root: str) -> Iterator[Fault]:
        """Yield what is wrong with a link; ``directory`` is open, ``real_root`` ends in a slash."""
        return self._chosen(self._link(path, name, directory, real_root))

    @staticmethod
    def _link(path: str, name: str, directory: int, real_root: str) -> Iterator[Fault]:
        target = os.readlink(name, dir_fd=directory)
        yield "link", target
        if target.startswith("/"):
            yield "absolute-link", target
        try:
            found = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            if error.errno == errno.ELOOP:
                yield "link-loop", target
                return
            yield "dangling-link", target
            # What is not there has a place all the same: the one that its text names.
            text = target if target.startswith("/") else os.path.join(real_root, os.path.dirname(path), target)
            if not f"{os.path.normpath(text)}/".startswith(real_root):
                yield "outside-link", target
            return
        try:
            if stat.S_ISDIR(os.fstat(found).st_mode):
                yield "directory-link", target
            real = os.readlink(f"/proc/self/fd/{found}")
        finally:
            os.close(found)
        if not f"{real}/".startswith(real_root):
            yield "outside-link", target


_SHORT = frozenset(("con", "prn", "aux", "nul", "com", "lpt"))
_LEFT = frozenset(("core",))


def show_time(ns: int) -> str:
    """Return a time of a finding."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ns // 10**9))
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"
