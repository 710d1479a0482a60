"""One entry of a release as it is recorded: what it is, where a link leads, and its attributes.

Input and output: JSON objects of find.metadata.jsonl.zst and of the manifest
(docs/reference/formats.md).
Invariant: whatever was written there, what is read back names an entry below
the root, and has numbers that the calls of the system take; a ``ValueError``
says what is wrong with anything else.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lading.core.bounded import JsonMembers, is_name
from lading.core.times import saturate

# What an entry can be. ``unknown``: it was gone, or nobody could look at it, when its kind was asked for.
DIRECTORY_KIND, FILE_KIND, LINK_KIND = "directory", "file", "link"
KINDS = (DIRECTORY_KIND, FILE_KIND, LINK_KIND, "fifo", "socket", "device", "unknown")
MODE_BITS = 0o7777
# The kernel's own bounds: XATTR_NAME_MAX, XATTR_SIZE_MAX, PATH_MAX.
XATTR_NAME_BYTES, XATTR_BYTES, TARGET_BYTES = 255, 65536, 4095
# Of all values of one entry together: more does not fit into a row of the manifest.
XATTRS_BYTES = 1 << 18
_ID = (1 << 32) - 2  # the last one means "leave as it is"


@dataclass(frozen=True, slots=True)
class EntryMetadata:
    """The attributes of an entry.

    mode       permission bits with setuid, setgid and sticky
    user       the name of ``uid`` where it was recorded, None where it had none; group likewise
    links      how many names the file has; ``inode`` says which ones are of one file: "device:inode", of files with
               more names than one
    allocated  bytes that it takes on disk, of files
    xattrs     extended attributes by name, POSIX ACLs (``system.posix_acl_access``) among them
    unread     names of extended attributes that could not be recorded
    """

    mode: int
    uid: int
    gid: int
    user: str | None
    group: str | None
    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    links: int = 1
    inode: str | None = None
    allocated: int | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def is_sparse(self, size: int) -> bool:
        """Tell whether a file of ``size`` bytes had holes."""
        return self.allocated is not None and self.allocated < size


@dataclass(frozen=True, slots=True)
class RecordedEntry:
    """An entry: ``path`` relative to the root ("." is the root itself), of a link ``target`` as it is written.

    ``dangling``: a link that led nowhere; ``outside``: one that led out of the root; ``empty``: a directory with
    nothing in it.
    """

    kind: str
    path: str
    target: str | None = None
    dangling: bool = False
    outside: bool = False
    empty: bool = False
    metadata: EntryMetadata | None = None


def encode_metadata(found: EntryMetadata) -> dict[str, Any]:
    """Return the JSON form; what is absent or as of most entries is left out."""
    record: dict[str, Any] = {"mode": found.mode, "uid": found.uid, "gid": found.gid}
    if found.user is not None:
        record["user"] = found.user
    if found.group is not None:
        record["group"] = found.group
    record |= {"mtime_ns": found.mtime_ns, "atime_ns": found.atime_ns, "ctime_ns": found.ctime_ns}
    if found.links != 1:
        record["nlink"] = found.links
    if found.inode is not None:
        record["inode"] = found.inode
    if found.allocated is not None:
        record["allocated"] = found.allocated
    if found.xattrs:
        record["xattrs"] = {
            name: base64.b64encode(value).decode("ascii") for name, value in sorted(found.xattrs.items())
        }
    if found.unread:
        record["unread"] = list(found.unread)
    return record


def decode_metadata(value: Any) -> EntryMetadata:
    """Return the attributes of their JSON form; ``ValueError`` when it is none."""
    take = JsonMembers(value, "the metadata of an entry")
    return EntryMetadata(
        take.number("mode", most=MODE_BITS),
        take.number("uid", most=_ID),
        take.number("gid", most=_ID),
        take.text_or_none("user", None),
        take.text_or_none("group", None),
        _time(value, "mtime_ns"),
        _time(value, "atime_ns"),
        _time(value, "ctime_ns"),
        links=take.number("nlink", 1),
        inode=take.text_or_none("inode", None),
        allocated=take.number("allocated") if "allocated" in value else None,
        xattrs=_decode_xattrs(take.object("xattrs", {})),
        unread=take.texts("unread", ()),
    )


def _time(value: Mapping[str, Any], name: str) -> int:
    found = value.get(name)
    if type(found) is not int:
        raise ValueError(f"{name!r} of the metadata of an entry is {repr(found)[:60]}, not a whole number")
    return saturate(found)


def _decode_xattrs(value: Mapping[str, Any]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, text in value.items():
        # A name without a namespace before its dot is none that a kernel takes; '/' and control characters it does.
        length = len(name.encode("utf-8", "surrogatepass"))
        if not is_name(name) or "." not in name.strip(".") or length > XATTR_NAME_BYTES:
            raise ValueError(f"{repr(name)[:60]} cannot be the name of an extended attribute")
        try:
            data = base64.b64decode(text, validate=True) if type(text) is str else None
        except (binascii.Error, ValueError):
            data = None
        if data is None or len(data) > XATTR_BYTES:
            raise ValueError(f"the value of the extended attribute {repr(name)[:60]} is {repr(text)[:60]}")
        found[name] = data
    return found


def encode_entry_record(entry: RecordedEntry) -> dict[str, Any]:
    """Return the JSON form of an entry: its kind first, which tells it from an object's row."""
    record: dict[str, Any] = {"kind": entry.kind, "path": entry.path}
    if entry.target is not None:
        record["target"] = entry.target
    if entry.dangling:
        record["dangling"] = True
    if entry.outside:
        record["outside"] = True
    if entry.empty:
        record["empty"] = True
    if entry.metadata is not None:
        record["metadata"] = encode_metadata(entry.metadata)
    return record


def decode_entry_record(value: Any) -> RecordedEntry:
    """Return the entry of its JSON form; ``ValueError`` when it is none."""
    take = JsonMembers(value, "an entry")
    kind, path = take.text("kind"), take.text("path")
    if kind not in KINDS:
        raise ValueError(f"{kind[:60]!r} is not a kind of entry")
    if not path or path.startswith("/") or (path != "." and not {"", ".", ".."}.isdisjoint(path.split("/"))):
        raise ValueError(f"the path {path[:60]!r} of an entry is not below the root")
    target = take.text_or_none("target", None)
    length = 0 if target is None else len(target.encode("utf-8", "surrogateescape"))
    if target is not None and (kind != LINK_KIND or not 0 < length <= TARGET_BYTES):
        raise ValueError(f"the target {target[:60]!r} of {path[:60]!r} is none of a link")
    metadata = decode_metadata(value["metadata"]) if value.get("metadata") is not None else None
    dangling, outside, empty = (take.flag(name, False) for name in ("dangling", "outside", "empty"))
    return RecordedEntry(kind, path, target, dangling, outside, empty, metadata)
