"""Put recorded attributes back: owner, extended attributes, mode, times, in this order.

Input: an open file or directory, or a link by its name, and its
``EntryMetadata``. Output: the attributes that this user may set; counts and
names of what could not be set.
Invariant: a file gets its setuid or setgid bit only with the owner or the
group that it was recorded with, so that nobody's program runs as somebody
else. Extended attributes that belong to the system and not to the data
(``security.`` but for capabilities) are left alone.
"""

import errno
import os
import stat
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from lading.core.appear import Identity
from lading.core.times import COARSEST, is_saturated
from lading.restore.accounts import AccountMap
from lading.tree.entry_record import EntryMetadata
from lading.tree.not_regular import NamedCount

ACLS = ("system.posix_acl_access", "system.posix_acl_default")
CAPABILITY = "security.capability"
MOST_REASONS = 50  # texts that a hostile manifest can make are of any number
_MORE = "other attributes"
_ACL_VERSION, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 0x02, 0x08


class AttributeRestorer:
    """Puts attributes back; safe to use from many threads. ``lacking`` counts, by what it is, what could not be."""

    def __init__(self, accounts: AccountMap) -> None:
        self._accounts = accounts
        self._lock = threading.Lock()
        self.lacking: dict[str, NamedCount] = {}

    def note(self, what: str, path: str) -> None:
        """Count what could not be put back."""
        with self._lock:
            if what not in self.lacking and len(self.lacking) >= MOST_REASONS:
                what = _MORE
            self.lacking.setdefault(what, NamedCount()).add(path)

    def apply(self, descriptor: int, found: EntryMetadata, path: str, mtime_ns: int) -> None:
        """Give an open file or directory its attributes; ``mtime_ns`` is the time that counts."""
        owned, grouped = self._own(found, path, lambda user, group: os.fchown(descriptor, user, group), descriptor)
        self._set_xattrs(descriptor, found, path)
        mode = found.mode
        if mode & stat.S_ISUID and not owned:
            mode &= ~stat.S_ISUID
            self.note("the setuid bit, as the owner is another", path)
        if mode & stat.S_ISGID and not grouped:
            mode &= ~stat.S_ISGID
            self.note("the setgid bit, as the group is another", path)
        try:
            os.fchmod(descriptor, mode)
        except OSError as error:
            self.note(f"the mode ({error.strerror})", path)
        self._date(lambda: os.utime(descriptor, ns=(found.atime_ns, mtime_ns)), path)
        held = os.fstat(descriptor).st_mtime_ns
        if abs(held - mtime_ns) >= COARSEST or is_saturated(mtime_ns):
            self.note("the time, which this file system or the manifest cannot hold", path)

    def apply_link(self, directory: int, name: bytes, found: EntryMetadata, path: str) -> None:
        """Give a link its owner and times: it has no mode, and few file systems keep more."""

        def own(user: int, group: int) -> None:
            os.chown(name, user, group, dir_fd=directory, follow_symlinks=False)

        self._own(found, path, own, None, os.stat(name, dir_fd=directory, follow_symlinks=False))
        times = (found.atime_ns, found.mtime_ns)
        self._date(lambda: os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False), path)

    def _date(self, change: Callable[[], None], path: str) -> None:
        try:
            change()
        except (OverflowError, ValueError):  # a C library whose seconds have 32 bits
            self.note("the time, which this file system or the manifest cannot hold", path)
        except OSError as error:
            self.note(f"the time ({error.strerror})", path)

    def _own(
        self,
        found: EntryMetadata,
        path: str,
        change: Callable[[int, int], None],
        descriptor: int | None,
        status: os.stat_result | None = None,
    ) -> tuple[bool, bool]:
        """Set owner and group; returns whether each is as recorded, or as the table maps it."""
        now = status if status is not None else os.fstat(descriptor if descriptor is not None else -1)
        user = self._accounts.user(found.uid, found.user)
        group = self._accounts.group(found.gid, found.group)
        if user is None:
            self.note(f"the owner {found.user}, who is unknown here (--map-users)", path)
        if group is None:
            self.note(f"the group {found.group}, which is unknown here (--map-users)", path)
        owned, grouped = user == now.st_uid, group == now.st_gid
        if user is not None and not owned:
            try:
                change(user, -1)
                owned = True
            except OSError:
                self.note("the owner, whom only root may set", path)
        if group is not None and not grouped:
            try:
                change(-1, group)
                grouped = True
            except OSError:
                self.note("the group, which this user may not set", path)
        return owned, grouped

    def _set_xattrs(self, descriptor: int, found: EntryMetadata, path: str) -> None:
        wanted = dict(found.xattrs)
        with suppress(OSError):
            # What the directory above gave a new file, and the recorded one had not.
            for name in os.listxattr(descriptor):
                if name not in wanted and name in ACLS:
                    os.removexattr(descriptor, name)
        for name, value in wanted.items():
            if name.startswith(("system.", "security.")) and name not in (*ACLS, CAPABILITY):
                self.note(f"the attribute {name}, which belongs to the system", path)
                continue
            try:
                os.setxattr(descriptor, name, self._map_acl(value) if name in ACLS else value)
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EACCES):
                    reason = "not allowed"
                elif error.errno == errno.EOPNOTSUPP:
                    reason = "not held by this file system"
                else:
                    reason = error.strerror or str(error)
                self.note(f"the attribute {name} ({reason})", path)
        for name in found.unread:
            self.note(f"the attribute {name}, which the crawl could not read", path)

    def _map_acl(self, value: bytes) -> bytes:
        """Return an ACL with the numbers of users and groups that the table maps; anything else as it is."""
        if len(value) < _ACL_VERSION.size or (len(value) - _ACL_VERSION.size) % _ACL_ENTRY.size:
            return value
        parts = [value[: _ACL_VERSION.size]]
        for tag, rights, number in _ACL_ENTRY.iter_unpack(value[_ACL_VERSION.size :]):
            if tag == _ACL_USER:
                number = self._accounts.users.get(str(number), number)
            elif tag == _ACL_GROUP:
                number = self._accounts.groups.get(str(number), number)
            parts.append(_ACL_ENTRY.pack(tag, rights, number))
        return b"".join(parts)


def open_to_owner(name: bytes, directory: int, examined: Identity) -> bool:
    """Let this user read a file of theirs that has a mode without that right; False for anybody else's."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        if Identity.of(status) != examined or status.st_uid != os.geteuid():
            return False
        os.chmod(f"/proc/self/fd/{descriptor}", stat.S_IMODE(status.st_mode) | stat.S_IRUSR)
        return True
    finally:
        os.close(descriptor)
