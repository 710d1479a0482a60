"""Which objects of a service have which content, by their manifests.

Input: manifests. Output: for a SHA-256 and a size, the objects that were verified to have it.
Invariant: memory does not grow with the manifests, but for eight bytes per size: the rest is a sorted file that is
looked into. What it says is of the time of the manifest: whoever copies such an object names its ETag.
"""

import bisect
import json
import mmap
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.core.external_sort import LineSort
from lading.verification.manifest import Manifest


@dataclass(frozen=True, slots=True)
class KnownObject:
    """One object of recorded content."""

    bucket: str
    key: str
    etag: str
    version_id: str | None


class ContentIndex:
    """Looks up content; safe to use from many threads once it is made."""

    def __init__(self, manifests: Iterable[Manifest], scratch: Path) -> None:
        """Sort what the manifests say into a file below ``scratch``, which the caller removes."""
        lines, sizes = LineSort(scratch, "content"), set[int]()
        for manifest in manifests:
            for row in manifest.rows():
                if row.sha256 and row.etag:
                    about = json.dumps([manifest.header.bucket, row.key, row.etag, row.version_id])
                    lines.add(f"{row.sha256} {row.size} {about}".encode("ascii"))
                    sizes.add(row.size)
        self._sizes = array("Q", sorted(sizes))
        path = scratch / "content.sorted"
        with path.open("wb") as stream:
            stream.writelines(line + b"\n" for line in lines)
        self._file = path.open("rb")
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else None

    @property
    def is_empty(self) -> bool:
        """Tell whether no content is known at all."""
        return not self._sizes

    def has_size(self, size: int) -> bool:
        """Tell whether an object of this size is known at all: else nothing need be read for it."""
        place = bisect.bisect_left(self._sizes, size)
        return place < len(self._sizes) and self._sizes[place] == size

    def find(self, sha256: str, size: int) -> Iterator[KnownObject]:
        """Yield the objects of this content."""
        wanted = f"{sha256} {size} ".encode("ascii")
        data = self._map
        if data is None:
            return
        low, high = 0, len(data)
        while low < high:  # the beginnings of lines, by halves
            middle = (low + high) // 2
            start = data.rfind(b"\n", 0, middle) + 1
            end = data.find(b"\n", start) + 1
            if data[start : start + len(wanted)] < wanted:
                low = end
            else:
                high = start
        while data[low : low + len(wanted)] == wanted:
            end = data.find(b"\n", low)
            yield KnownObject(*json.loads(data[low + len(wanted) : end]))
            low = end + 1
