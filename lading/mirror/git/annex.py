"""What the git-annex branch says of a key: where its content is, and at which URL or version.

Input: the rows of a dataset and the logs the branch already has. Output: the
log files to write.
Invariant: a line that someone else wrote stays; a log that already says what
we know is not touched, so an unchanged dataset gets no commit.

Source of the formats: https://git-annex.branchable.com/internals/ (location
log, remote URL log, remote metadata log, ``uuid.log``, ``remote.log``).
"""

import base64
import hashlib
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from urllib.parse import quote, urlsplit

from lading.core.command_line import printable
from lading.core.errors import ConsistencyError, UsageError
from lading.mirror.git.annex_keys import HASHED, lower_directory
from lading.mirror.git.commands import Held, read_blobs
from lading.mirror.git.fast_import import FILE, Change
from lading.mirror.git.portable_names import to_bytes, to_text

# git-annex' fixed id of "the web" as a place.
WEB = "00000000-0000-0000-0000-000000000001"
# A key that thousands of equal chunks share needs no thousand URLs.
MOST_PLACES = 3
_PLAIN_VALUE = re.compile(rb"[A-Za-z0-9._/@+=,~-]+")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "lading:mirror")


# Amazon's rules for bucket names, and what other servers allow beyond them; a colon parts a tenant from its bucket.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,254}")
_ENDPOINT = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?(?:/[A-Za-z0-9._~/-]*)?")


def check_address(bucket: str, endpoint: str | None) -> None:
    """Raise ``ConsistencyError`` unless these can be a bucket and its endpoint.

    They come from the manifest, perhaps another's, and git-annex' logs part
    their fields by blanks and line ends.
    """
    if not _BUCKET.fullmatch(bucket):
        raise ConsistencyError(f"the manifest describes the bucket {printable(bucket)!r}, which is not a bucket name")
    match = _ENDPOINT.fullmatch(endpoint) if endpoint is not None else None
    if endpoint is not None and (match is None or int(match[1] or 1) not in range(1, 65536)):
        # Not shown: it may hold a password.
        raise ConsistencyError(
            "the endpoint of the manifest or of s3endpoint is not an address of the form http(s)://host[:port][/path]; "
            "clones would use it, so give --s3endpoint or correct the manifest"
        )


def identifier(*parts: str) -> str:
    """Return the UUIDv5 of a name: equal for equal parts, on every machine."""
    return str(uuid.uuid5(_NAMESPACE, "\0".join(parts).encode("utf-8", "surrogateescape").hex()))


def remote_of(bucket: str, endpoint: str | None) -> str:
    """Return the id of the special remote of a private bucket."""
    return identifier("s3", endpoint or "", bucket)


@dataclass(frozen=True, slots=True)
class ObjectAddress:
    """One object that holds the content of a key: its name in the bucket, version and time (seconds since 1970)."""

    object_key: str
    version: str | None
    epoch: int


class KeyPlaces(Mapping[bytes, list[ObjectAddress]]):
    """Where the content of each key is: up to ``MOST_PLACES`` of them. Of millions, each is held as one value."""

    def __init__(self) -> None:
        self._held: dict[bytes, bytes | list[bytes]] = {}

    def add(self, key: bytes, place: ObjectAddress) -> None:
        """Note one more place of a key."""
        version = b"?" if place.version is None else b"=" + to_bytes(place.version)
        packed = b"%d\0%b\0%b" % (place.epoch, version, to_bytes(place.object_key))
        before = self._held.setdefault(key, packed)
        if before is packed:
            return
        if isinstance(before, bytes):
            self._held[key] = before = [before]
        if len(before) < MOST_PLACES:
            before.append(packed)

    def __getitem__(self, key: bytes) -> list[ObjectAddress]:
        held = self._held[key]
        return [_unpack(packed) for packed in ([held] if isinstance(held, bytes) else held)]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


def _unpack(packed: bytes) -> ObjectAddress:
    epoch, version, name = packed.split(b"\0", 2)
    return ObjectAddress(to_text(name), None if version == b"?" else to_text(version[1:]), int(epoch))


@dataclass(frozen=True)
class AnnexAccess:
    """How a clone reaches the bucket: by web URLs, or (private) through the S3 special remote ``remote``.

    ``url_regex`` chooses among the spellings of a URL; where it fits none and is not ``strict``, the first is taken.
    """

    bucket: str
    endpoint: str | None
    remote: str | None
    url_regex: str | None = None
    strict: bool = True

    def url(self, place: ObjectAddress) -> str:
        """Return the URL of one object version, percent-quoted bytes.

        Raises ``UsageError`` when ``content_url_regex`` fits none of its spellings.
        """
        name = quote(to_bytes(place.object_key), safe="/~")
        query = f"?versionId={quote(place.version, safe='')}" if place.version else ""
        if self.endpoint:
            spellings = [f"{self.endpoint.rstrip('/')}/{self.bucket}/{name}{query}"]
        else:
            spellings = [
                f"https://{self.bucket}.s3.amazonaws.com/{name}{query}",
                f"https://s3.amazonaws.com/{self.bucket}/{name}{query}",
            ]
        for spelling in spellings:
            if self.url_regex is None or re.search(self.url_regex, spelling):
                return spelling
        if not self.strict:
            return spellings[0]
        raise UsageError(f"content_url_regex {self.url_regex!r} matches none of {', '.join(spellings)}")

    def options(self) -> dict[str, str]:
        """Return the configuration of the special remote."""
        parts = urlsplit(self.endpoint or "https://s3.amazonaws.com")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return {
            "autoenable": "true",
            "bucket": self.bucket,
            "datacenter": "US",
            "encryption": "none",
            "exporttree": "yes",
            "host": parts.hostname or "",
            "name": "bucket",
            "port": str(port),
            "protocol": parts.scheme,
            "requeststyle": "path" if self.endpoint else "virtual",
            "storageclass": "STANDARD",
            "type": "S3",
            "versioning": "yes",
        }

    def settings(self, epoch: int) -> dict[bytes, list[bytes]]:
        """Return the lines that describe the special remote, by their file on the branch."""
        if self.remote is None:
            return {}
        text = " ".join(f"{name}={value}" for name, value in sorted(self.options().items()))
        return {
            b"remote.log": [f"{self.remote} {text} timestamp={epoch}s".encode()],
            b"uuid.log": [f"{self.remote} bucket timestamp={epoch}s".encode()],
        }

    def retired(self, known: bytes, epoch: int) -> Iterator[tuple[bytes, list[bytes]]]:
        """Yield the lines that end the special remote of a bucket that everyone can read by now.

        ``known`` is the branch's ``remote.log``. Clones shall not ask for credentials any more.
        """
        remote = remote_of(self.bucket, self.endpoint)
        if self.remote is not None or remote.encode() not in known:
            return
        options = {**self.options(), "autoenable": "false"}
        text = " ".join(f"{name}={value}" for name, value in sorted(options.items()))
        # Later than the line that described it, which has the time of an earlier commit.
        yield b"remote.log", [f"{remote} {text} timestamp={epoch + 1}s".encode()]
        yield b"trust.log", [f"{remote} X timestamp={epoch + 1}s".encode()]

    def logs(self, places: Sequence[ObjectAddress]) -> dict[bytes, list[bytes]]:
        """Return the lines that say where a key is, by the suffix of their log file."""
        newest = max(place.epoch for place in places)
        if self.remote is None:
            urls = sorted({self.url(place): place.epoch for place in places}.items())
            return {
                b".log": [f"{newest}s 1 {WEB}".encode()],
                b".log.web": [f"{epoch}s 1 {url}".encode() for url, epoch in urls],
            }
        values = sorted({(_version_record(place), place.epoch) for place in places})
        return {
            b".log": [f"{newest}s 1 {self.remote}".encode()],
            b".log.rmet": [b"%ds %s:V +%s" % (epoch, self.remote.encode(), value) for value, epoch in values],
        }


def _version_record(place: ObjectAddress) -> bytes:
    if place.version is None:
        raise UsageError(
            f"{place.object_key!r} has no version id: access: private needs a versioned bucket; "
            "switch versioning on and upload again, or use access: public"
        )
    if "\n" in place.object_key:
        raise UsageError(
            f"{place.object_key!r} has a newline in its key, which git-annex cannot fetch from a private bucket; "
            "rename it or use access: public"
        )
    value = place.version.encode() + b"#" + to_bytes(place.object_key)
    # Anything git-annex would not write plainly goes as base64, marked by "!".
    return value if _PLAIN_VALUE.fullmatch(value.replace(b"#", b"")) else b"!" + base64.b64encode(value)


def blob_sha(data: bytes) -> bytes:
    """Return git's object id of a file's content, in hex."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest().encode()


def _says(line: bytes) -> bytes:
    """Return what a log line states, without its time."""
    if line.endswith(b"s") and b" timestamp=" in line:
        return line.rpartition(b" timestamp=")[0]
    return line.partition(b" ")[2]


def merge(existing: bytes, ours: list[bytes]) -> bytes:
    """Return a log with our statements added to the lines it has; unchanged when it makes them all."""
    lines = existing.splitlines()
    said = {_says(line) for line in lines}
    missing = [line for line in ours if _says(line) not in said]
    return b"".join(line + b"\n" for line in lines + missing)


def states(log: bytes, lines: Iterable[bytes]) -> bool:
    """Tell whether a log makes every statement of ``lines``, at whatever time."""
    said = {_says(line) for line in log.splitlines()}
    return all(_says(line) in said for line in lines)


def log_changes(
    repository: Path,
    held: Iterator[tuple[bytes, Held]],
    wanted: Iterable[tuple[bytes, list[bytes]]],
) -> Iterator[Change]:
    """Yield the log files to write so that the branch states everything ``wanted``.

    ``held`` are the entries of the branch; both come sorted by path. Only logs that differ are read.
    """
    differing: list[tuple[bytes, list[bytes], bytes]] = []
    here: tuple[bytes, Held] | None = next(held, None)
    for path, lines in wanted:
        while here is not None and here[0] < path:
            here = next(held, None)
        data = b"".join(line + b"\n" for line in lines)
        if here is None or here[0] != path:
            yield Change(path, FILE, data)
        elif here[1].sha != blob_sha(data):
            differing.append((path, lines, here[1].sha))
    for (path, lines, _), existing in zip(
        differing, read_blobs(repository, [sha for _, _, sha in differing]), strict=True
    ):
        merged = merge(existing, lines)
        if merged != existing:
            yield Change(path, FILE, merged)


def key_logs(
    access: AnnexAccess, places: Mapping[bytes, Sequence[ObjectAddress]]
) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield (path on the branch, lines) for every key, sorted by path."""
    order = sorted(lower_directory(key) + key for key in places)
    for _, same in groupby(order, key=lambda name: name[:HASHED]):
        logs = ((name + suffix, lines) for name in same for suffix, lines in access.logs(places[name[HASHED:]]).items())
        # Suffixes may order the few logs of a directory in another way than their keys.
        yield from sorted(logs)


def own_logs(access: AnnexAccess, own: str, epoch: int) -> dict[bytes, list[bytes]]:
    """Return the lines on the repository ``own`` itself and on the special remote, by path on the branch.

    Sorted by path, they come after every key's: the names of hash directories begin with a hex digit.
    """
    general = access.settings(epoch)
    general.setdefault(b"uuid.log", []).append(f"{own} mirror timestamp={epoch}s".encode())
    return general
