"""What a file is called in its dataset: as in the bucket, unless git, git-annex or DataLad cannot hold that name.

Input: a path inside a dataset, as bytes. Output: the path in git.
Invariant: one to one, so no two files ever share a name; what is written here
begins with ``%`` and two hex digits, and a name that begins so in the data is
written with ``%25`` in its turn. The result is valid UTF-8, without control
characters, and no component is longer than a file system takes.

Sources: git's own check of dangerous names (``verify_path``, with
``core.protectHFS`` and ``core.protectNTFS``); gitsubmodules(7); git-annex
(``.noannex``). DataLad splits the lists that it reads from git at line ends
and gives up at bytes that are not UTF-8: one such name hides other files.
"""

import hashlib
import re
import unicodedata
from functools import lru_cache

# What a dataset keeps for itself at its top; `.noannex` there would forbid `git annex init` in every clone.
_OWN = (b".datalad", b".mirror", b".gitattributes", b".noannex")
_LONGEST = 255  # bytes of a component, NAME_MAX
# A component beyond it keeps a readable beginning before its digest.
_KEPT = 160
_DIGEST_MARK = b"%~"
# Names that need no second look: printable ASCII without what any rule below begins with.
# No "%", "\\", "~", ":", "@" anywhere, no "/" but between components, no dot first and no dash at the very first.
_PLAIN = re.compile(rb"(?!-)(?:(?!\.)[ -$&-.0-9;-?A-\[\]-}]{1,255}/)*(?!\.)[ -$&-.0-9;-?A-\[\]-}]{1,255}")
_MARKED = re.compile(r"%[0-9A-F]{2}")
_ESCAPES = re.compile(rb"%([0-9A-F]{2})")
# Code points that HFS+ leaves out when it compares names.
_HFS_IGNORED = dict.fromkeys(
    [*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF],
)
# Files that steer git, and the short names that NTFS may give them.
_STEERING = re.compile(
    r"(?:\.(?:git|gitmodules|gitattributes|gitignore|mailmap)|(?:g[0-9a-z]{0,5}|ma[0-9a-z]{0,4}|m)?~[1-9][0-9]*)"
    r"[ .]*(?::.*)?",
    re.DOTALL,
)
_GIT = ("git", "~", "mailmap")


def to_bytes(name: str) -> bytes:
    """Return a name of the manifest as bytes, whatever the locale."""
    return name.encode("utf-8", "surrogateescape")


def to_text(name: bytes) -> str:
    """Return a name as the manifest writes it, whatever the locale."""
    return name.decode("utf-8", "surrogateescape")


def _steers_git(name: str) -> bool:
    """Tell whether git, on this or another file system, could take ``name`` for one of its own files."""
    folded = name.translate(_HFS_IGNORED).lower()
    return any(word in folded for word in _GIT) and _STEERING.fullmatch(folded) is not None


def _is_unfit(char: str) -> bool:
    """Tell whether a character is a control or line separator, or a byte that is not UTF-8."""
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


@lru_cache(maxsize=1 << 16)
def _component(part: bytes, *, own: bool, linked: bool) -> bytes:
    """Return one component; ``own`` at the top of a dataset, ``linked`` where the path of a subdataset may begin."""
    text = part.decode("utf-8", "surrogateescape")
    # Where backslashes separate, as git checks too, each piece is a name.
    pieces = text.split("\\")
    bad = (
        _MARKED.match(text)
        or (own and part in _OWN)
        or (linked and (text.startswith("-") or ":" in text or "@" in text))
        or any(_steers_git(piece) for piece in pieces)
        or any(_is_unfit(char) for char in text if not "\x1f" < char < "\x7f")
    )
    if not bad and len(part) <= _LONGEST:
        return part
    written = []
    for number, piece in enumerate(pieces):
        steers = number == 0 or _steers_git(piece)
        written.append(
            "".join(
                _escape(char)
                if char == "%" or (steers and index == 0) or _is_unfit(char) or (linked and char in ":@")
                else char
                for index, char in enumerate(piece)
            )
        )
    found = "\\".join(written)
    if found.startswith("\\"):
        found = _escape("\\") + found[1:]
    encoded = found.encode()
    return encoded if len(encoded) <= _LONGEST else _shorten(part, encoded)


def _escape(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))


def _shorten(part: bytes, written: bytes) -> bytes:
    """Return a name for a component that is too long once written: its beginning and a digest of the whole."""
    kept = written[:_KEPT].decode("utf-8", "ignore").encode()
    # Not in the middle of an escape. A "%~" is in no other name that begins with an escape.
    kept = re.sub(rb"%[0-9A-F]?\Z", b"", kept)
    return kept + _DIGEST_MARK + hashlib.sha256(part).hexdigest()[:32].encode()


def repository_path(path: bytes, *, directory: bool = False) -> bytes:
    """Return the name under which a file, or the subdataset at a ``directory``, is kept in its dataset.

    >>> repository_path(b"a/.git/config"), repository_path(b".datalad/x"), repository_path(b"a/.datalad/x")
    (b'a/%2Egit/config', b'%2Edatalad/x', b'a/.datalad/x')
    >>> repository_path(b"a/%2Egit/config"), repository_path(b"new\\nline"), repository_path(b"-x/f")
    (b'a/%252Egit/config', b'%6Eew%0Aline', b'%2Dx/f')
    """
    if _PLAIN.fullmatch(path):
        return path
    parts = path.split(b"/")
    last = len(parts) - 1
    return b"/".join(
        # git takes no subdataset whose path begins with a dash, DataLad none whose path begins like user@host or host:.
        _component(part, own=number == 0, linked=number == 0 and (directory or number < last))
        for number, part in enumerate(parts)
    )


def original_path(path: bytes) -> bytes | None:
    """Return what ``repository_path`` was given, or None where a digest took its place."""
    if b"%" not in path:
        return path
    parts = path.split(b"/")
    for number, part in enumerate(parts):
        if re.match(rb"%[0-9A-F]{2}", part):
            if _DIGEST_MARK in part:
                return None
            parts[number] = _ESCAPES.sub(lambda match: bytes.fromhex(match[1].decode()), part)
    return b"/".join(parts)


def unfit(path: str) -> str | None:
    """Return why a path is none that a file of a release has, or None."""
    try:
        name = to_bytes(path)
    except UnicodeEncodeError:
        return "it has half a surrogate pair, which a file name cannot have"
    if any(part in (b"", b".", b"..") for part in name.split(b"/")):
        return "it is absolute, or has an empty, '.' or '..' component"
    return "it has a NUL byte" if b"\0" in name else None
