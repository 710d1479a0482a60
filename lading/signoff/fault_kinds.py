"""The kinds of faults that a sign-off looks for, and what each counts as.

Input: settings of a person. Output: ``SignoffRules``.
Invariant: every kind has a name, a default and one sentence here; docs/reference/signoff.md is made from them.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType

from lading.core.errors import UsageError, usage_errors
from lading.objectstore.capacity import KEY_BYTES, OBJECT_BYTES


class FaultLevel(StrEnum):
    """What a kind counts as: an error ends with 4, a note is only named, and what is off is not looked for."""

    OFF = "off"
    NOTE = "note"
    ERROR = "error"


@dataclass(frozen=True)
class FaultKind:
    """One kind; ``setting``: without it the kind has nothing to compare with, and finds nothing."""

    name: str
    group: str
    level: FaultLevel
    meaning: str
    setting: str = ""


OFF, NOTE, ERROR = FaultLevel
# Kinds that are always named, and end with 3: what could not be read, or changed while it was.
UNREAD = ("unreadable", "unsteady")
KINDS = (
    FaultKind("sum-differs", "checksums", ERROR, "the bytes are not those of the checksum file"),
    FaultKind("sum-without-file", "checksums", ERROR, "a checksum file names a file that is not there"),
    FaultKind("file-without-sum", "checksums", ERROR, "no checksum file names the file"),
    FaultKind("sum-line", "checksums", ERROR, "a line of a checksum file is none"),
    FaultKind("sum-algorithm", "checksums", ERROR, "a checksum is neither MD5 nor SHA-256, and is not compared"),
    FaultKind("sum-outside", "checksums", ERROR, "a checksum file names a file outside the release"),
    FaultKind("sum-absolute", "checksums", ERROR, "a checksum file names a file of the release by an absolute path"),
    FaultKind("sum-not-file", "checksums", ERROR, "a checksum file names what is not a regular file"),
    FaultKind("sum-repeated", "checksums", NOTE, "a checksum file names a file twice with one algorithm"),
    FaultKind("sum-empty", "checksums", ERROR, "a checksum file names no file"),
    FaultKind("owner", "access", ERROR, "the owner is another one", "owner"),
    FaultKind("group", "access", ERROR, "the group is another one", "group"),
    FaultKind("file-mode", "access", ERROR, "the mode of a file is another one", "file_mode"),
    FaultKind("directory-mode", "access", ERROR, "the mode of a directory is another one", "directory_mode"),
    FaultKind("private", "access", ERROR, "neither the group nor others may read it"),
    FaultKind("world-readable", "access", OFF, "others may read it"),
    FaultKind("not-world-readable", "access", OFF, "others may not read it"),
    FaultKind("world-writable", "access", ERROR, "others may write it"),
    FaultKind("group-writable", "access", OFF, "the group may write it"),
    FaultKind("owner-writable", "access", OFF, "the owner may write it"),
    FaultKind("executable", "access", OFF, "a regular file may be executed"),
    FaultKind("set-id", "access", ERROR, "a regular file runs as its owner or group (setuid, setgid)"),
    FaultKind("unknown-owner", "access", ERROR, "the owner has no account here"),
    FaultKind("unknown-group", "access", ERROR, "the group has no name here"),
    FaultKind("empty-file", "entries", ERROR, "a file has no bytes"),
    FaultKind("empty-directory", "entries", ERROR, "a directory has no entries, and a bucket does not keep it"),
    FaultKind("hidden", "entries", ERROR, "the name begins with a dot"),
    FaultKind("leftover", "entries", ERROR, "the name is one that editors and killed programs leave"),
    FaultKind("fifo", "entries", ERROR, "a named pipe"),
    FaultKind("socket", "entries", ERROR, "a socket"),
    FaultKind("device", "entries", ERROR, "a device"),
    FaultKind("hard-link", "entries", NOTE, "a file has several names; a bucket holds it once for each"),
    FaultKind("sparse", "entries", OFF, "a file occupies less than its size"),
    FaultKind("too-large", "entries", ERROR, f"a file has more bytes than an object may ({OBJECT_BYTES >> 40} TiB)"),
    FaultKind("crowded", "entries", NOTE, "a directory has more entries than `crowd`", "crowd"),
    FaultKind("mount", "entries", NOTE, "a directory is on another file system"),
    FaultKind("future", "times", ERROR, "the modification time is in the future"),
    FaultKind("no-time", "times", ERROR, "the modification time is before 1980, as that of broken copies is"),
    FaultKind("newer-than-freeze", "times", ERROR, "the content was changed after the freeze", "freeze"),
    FaultKind("changed-after-freeze", "times", OFF, "mode, owner, name or content changed after the freeze", "freeze"),
    FaultKind("link", "links", OFF, "a symbolic link, whatever it leads to"),
    FaultKind("directory-link", "links", NOTE, "a link to a directory"),
    FaultKind("absolute-link", "links", ERROR, "a link with an absolute path"),
    FaultKind("dangling-link", "links", ERROR, "a link that leads nowhere"),
    FaultKind("link-loop", "links", ERROR, "a link that leads back to itself"),
    FaultKind("outside-link", "links", ERROR, "a link that leads out of the release"),
    FaultKind("not-utf8", "names", ERROR, "the name is not UTF-8, which keys must be"),
    FaultKind("control-character", "names", ERROR, "the name has a control character, as newline is"),
    FaultKind("long-key", "names", ERROR, f"the key has more than {KEY_BYTES:,} bytes"),
    FaultKind("avoided-character", "names", NOTE, "the name has one of the characters that S3 advises against"),
    FaultKind("leading-dash", "names", ERROR, "the name begins with a dash, which programs take for an option"),
    FaultKind("outer-space", "names", ERROR, "the name begins or ends with white space"),
    FaultKind("windows-character", "names", ERROR, "the name has a character that Windows forbids"),
    FaultKind("windows-name", "names", ERROR, "the name is that of a device on Windows, as NUL is"),
    FaultKind("windows-ending", "names", ERROR, "the name ends with a dot or a space, which Windows drops"),
    FaultKind("windows-length", "names", NOTE, "the path has more than 240 characters, which Windows does not open"),
    FaultKind("case-collision", "names", ERROR, "two names of a directory differ in case alone"),
    FaultKind("not-composed", "names", NOTE, "the name is not in Unicode's composed form (NFC)"),
    FaultKind("unicode-collision", "names", ERROR, "two names of a directory are one in Unicode's composed form"),
    FaultKind("unreadable", "reading", ERROR, "it could not be read (exit 3; cannot be switched)"),
    FaultKind("unsteady", "reading", ERROR, "it changed while it was read (exit 3; cannot be switched)"),
)  # fmt: skip
BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True)
class ExpectedState:
    """What entries are compared with; None: with nothing.

    owner, group  numbers; file_mode, directory_mode  the permission bits
    freeze_ns  when the content was final; crowd  most entries of a directory
    prefix  what keys begin with, which counts for their length
    """

    owner: int | None = None
    group: int | None = None
    file_mode: int | None = None
    directory_mode: int | None = None
    freeze_ns: int | None = None
    crowd: int | None = 100_000
    prefix: str = ""


@dataclass(frozen=True)
class SignoffRules:
    """What is looked for: the level of each kind, and what entries are compared with."""

    expected: ExpectedState = field(default_factory=ExpectedState)
    levels: Mapping[str, FaultLevel] = field(default_factory=lambda: parse_levels(""))

    def looks_for(self, name: str) -> bool:
        """Tell whether a kind is looked for."""
        return self.levels[name] is not FaultLevel.OFF

    @property
    def wanted(self) -> frozenset[str]:
        """The kinds that are looked for."""
        return frozenset(name for name in self.levels if self.looks_for(name))


def parse_levels(text: str) -> Mapping[str, FaultLevel]:
    """Return the level of each kind by ``hidden=off,owner=note``; ``all=off`` first leaves only what follows."""
    levels = {kind.name: kind.level for kind in KINDS}
    faults = []
    for entry in filter(None, (part.strip() for part in text.replace(";", ",").split(","))):
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or value not in list(FaultLevel):
            faults.append(f"the check {entry!r} is not KIND=off, KIND=note or KIND=error")
        elif name == "all":
            levels = {kind: FaultLevel(value) for kind in levels}
        elif name in UNREAD:
            faults.append(f"the check {name!r} cannot be switched: what is not read is never signed off")
        elif name not in levels:
            near = ", ".join(kind for kind in levels if name.split("-")[0] in kind) or "lading signoff --list-checks"
            faults.append(f"{name!r} is not a check; see: {near}")
        else:
            levels[name] = FaultLevel(value)
    if faults:
        raise usage_errors(faults)
    return MappingProxyType(levels | dict.fromkeys(UNREAD, FaultLevel.ERROR))


def parse_mode(text: str) -> int:
    """Return the permission bits of ``0644``; ``UsageError`` for anything else."""
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        raise UsageError(f"{text!r} is not a mode; write it in octal, like 0644 or 2755")
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise UsageError(f"{text!r} is not a mode; write it in octal, like 0644 or 2755")
    return mode


def parse_freeze(text: str) -> int:
    """Return a moment in ns since 1970: a date (its end, UTC), or a date with time; ``UsageError`` for all else."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UsageError(f"{text!r} is not a date; write it like 2026-11-28 or 2026-11-28T17:00:00Z") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if len(text.strip()) <= 10:
        moment = moment.replace(hour=23, minute=59, second=59, microsecond=999999)
    return int(moment.timestamp() * 10**6) * 1000 + 999


def own_number(what: str, text: str, ask: Callable[[str], int]) -> int:
    """Return a user's or group's number of its name or number; ``UsageError`` where there is none."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return ask(text)
    except (KeyError, OSError) as error:
        raise UsageError(f"there is no {what} {text!r} on this machine; give its number") from error


def show_account(number: int, name: str | None) -> str:
    """Return how an account is named in a finding."""
    return f"{name} ({number})" if name else str(number)


def show_path(path: str) -> str:
    """Return a path of a finding: the root itself is a dot."""
    return path or os.curdir
