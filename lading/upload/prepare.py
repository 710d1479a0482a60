"""Before a group is sent: look at the files, look at the bucket, adopt what is already right.

Input: up to some thousand items. Output: what to send, what is proven
already, what cannot be sent.
Invariant: nothing is written, neither here nor there.
"""

import errno
import functools
import mimetypes
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lading.checksums.digest import FileDigests, FileState, digest_in_pool
from lading.checksums.digest_prefetch import DigestPrefetch
from lading.core.opening import Replaced, SeenFile, not_regular
from lading.journal.records import VerificationRecord
from lading.objectstore.object_info import ARCHIVED, ObjectInfo, StoreError
from lading.objectstore.target import FailureKind
from lading.plan.object_settings import ObjectSettings
from lading.plan.planned_object import PlannedObject
from lading.upload.engines.base import UploadTask
from lading.verification.compare import Comparison, make_record, stat_files

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

# The types of Python's own table: the host's would make one file's type depend on where it was sent from.
_TYPES = mimetypes.MimeTypes(filenames=())
_ENCODED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_DEFAULT_TYPE = "application/octet-stream"


def content_type(path: str) -> str:
    """Return the MIME type for a name, the same on every host."""
    name = path.rpartition("/")[2]
    if name[:1] == ".":  # all of such a name may be its beginning
        return _type_of(name)
    return _type_of("x." + ".".join(name.rsplit(".", 2)[1:])) if "." in name else _DEFAULT_TYPE


@functools.lru_cache(4096)
def _type_of(name: str) -> str:
    """Return the type of a name, of which only the last two extensions count; finding it costs more than a stat."""
    kind, encoding = _TYPES.guess_type(f"x/{name}")
    if encoding:
        return _ENCODED.get(encoding, _DEFAULT_TYPE)
    return kind or _DEFAULT_TYPE


def choose_type(objects: ObjectSettings, path: str) -> str:
    """Return the content type that was set for a path, else the MIME type of its name."""
    return objects.content_type(path) or content_type(path)


ARCHIVED_REASON = (
    "an object of its size is archived under its key, and cannot be read to compare; thaw it, or take its ETag: "
    "--adopt=md5"
)
ASKED = 3  # keys asked for by themselves before a listing that lacks them is believed


@dataclass
class Prepared:
    """What became of a group: (item, task, stamp) to send, proofs of what was there, (item, class, reason) refused."""

    ready: list[tuple[PlannedObject, UploadTask, FileState]] = field(default_factory=list)
    already_present: list[tuple[PlannedObject, VerificationRecord]] = field(default_factory=list)
    faults: list[tuple[PlannedObject, FailureKind, str]] = field(default_factory=list)


def describe_missing(error: OSError) -> str:
    """Return why a file of the plan cannot be read, and what to do when it is gone."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "the local file is gone; crawl and plan again: rm find.json; make find.json batch.json"
    if isinstance(error, Replaced):
        return str(error.strerror)
    return f"{error.strerror} (here)"


@dataclass(frozen=True)
class Preparation:
    """How groups are prepared; digests are made on the reader's threads."""

    store: "ObjectStore"
    comparison: Comparison
    reader: DigestPrefetch
    no_overwrite: bool = False
    objects: ObjectSettings = field(default_factory=ObjectSettings)
    _stop: bytearray = field(default_factory=lambda: bytearray(1))

    def stop(self) -> None:
        """Cut off the digests of what lies in the bucket already: groups under way come back without what is left."""
        self._stop[0] = 1

    def statuses(self, paths: Iterable[str]) -> list[os.stat_result | OSError]:
        """Return the state of each file, or the error; what lies below the reader's root is reached through no link."""
        root = self.reader.root
        return stat_files(paths) if root is None else root.statuses(paths)

    def prepare(self, items: Sequence[PlannedObject]) -> Prepared:
        """Sort items into ready, adopted and faults; raises ``StoreError`` when the bucket does not answer."""
        prepared = Prepared()
        sound: list[tuple[PlannedObject, UploadTask, FileState]] = []
        for item, status in zip(items, self.statuses(item.local for item in items)):
            if isinstance(status, OSError):
                prepared.faults.append((item, FailureKind.OBJECT, describe_missing(status)))
            elif not stat.S_ISREG(status.st_mode):
                prepared.faults.append((item, FailureKind.OBJECT, describe_missing(not_regular(status.st_mode))))
            elif fault := self.store.capacity.object_fault(status.st_size):
                prepared.faults.append((item, FailureKind.REFUSED, fault))
            else:
                stamp = FileState.of(status)
                kind, wanted = choose_type(self.objects, item.path), self.objects.attributes(item.path, status)
                seen = SeenFile.of(status)
                task = UploadTask(item.local, item.key, stamp.size, stamp.mtime_ns, kind, seen, wanted)
                sound.append((item, task, stamp))
        listed = self.store.find((item.key for item, _, _ in sound), doubt=ASKED) if sound else {}
        alike = [
            item
            for item, task, _ in sound
            if item.key in listed and listed[item.key].size == task.size and not item.rejects(listed[item.key])
        ]
        digests = self._digest(alike, listed) if alike else {}
        for item, task, stamp in sound:
            there = listed.get(item.key)
            if self._stop[0]:
                break  # for the next run
            if there is None:
                prepared.ready.append((item, task, stamp))
                continue
            method = None
            if item.key in digests:
                known = digests[item.key]
                if isinstance(known, OSError) and known.errno == errno.ECANCELED:
                    continue  # cut off: for the next run
                if isinstance(known, OSError):
                    prepared.faults.append((item, FailureKind.OBJECT, describe_missing(known)))
                    continue
                try:
                    method = self.comparison.match(item.local, there, known, found=True)
                except StoreError as error:
                    if error.code != ARCHIVED:
                        raise
                    prepared.faults.append((item, FailureKind.REFUSED, ARCHIVED_REASON))
                    continue
                if method:
                    prepared.already_present.append((item, make_record(item, there, known, method)))
                    continue
            if self.no_overwrite:
                reason = "the bucket holds another object under its key, and --no-overwrite was given"
                prepared.faults.append((item, FailureKind.REFUSED, reason))
            else:
                prepared.ready.append((item, task, stamp))
        prepared.ready.sort(key=lambda entry: -entry[1].size)
        return prepared

    def _digest(
        self, items: Sequence[PlannedObject], listed: Mapping[str, ObjectInfo]
    ) -> dict[str, FileDigests | OSError]:
        """Return the digests of items whose objects are as long as they; from what was read ahead where it was."""
        sizes = {item.key: listed[item.key].size for item in items}
        ahead = {item.key: self.reader.take(item.local, sizes[item.key]) for item in items}
        rest = [item for item in items if ahead[item.key] is None]
        files = [(item.local, sizes[item.key]) for item in rest]
        read = digest_in_pool(self.reader.pool, files, self._stop, self.reader.digest)
        digests = dict(zip((item.key for item in rest), read))
        return digests | {key: reading.result() for key, reading in ahead.items() if reading is not None}
