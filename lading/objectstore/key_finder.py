"""Find keys in a bucket by its listings: about one request per 1,000 of them.

Input: keys. Output: what the bucket lists for them.
Invariant: a key is found missing only by a page that would have shown it; a
server that lists out of byte order is noticed, and its listings are read whole.
"""

import os
import sys
from collections.abc import Iterable, Sequence, Set
from itertools import islice

from lading.core.worker_threads import WorkerPool, bound
from lading.objectstore.answers import AnswerReader
from lading.objectstore.listing_pages import Trail
from lading.objectstore.object_info import ObjectInfo
from lading.objectstore.s3_listing import PAGE, BucketListing

SIFTED = 20  # pages of an unordered listing, before its keys are asked for one by one


class KeyFinder:
    """Finds keys; remembers whether the server lists in order."""

    def __init__(self, listing: BucketListing, answers: AnswerReader) -> None:
        self._listing, self._answers = listing, answers
        self._disorder = False  # once a listing was out of byte order

    def find(self, keys: Iterable[str], threads: int = 8, *, doubt: int = 0) -> dict[str, ObjectInfo]:
        """Return what the bucket lists for ``keys``: about one request per 1,000 of them.

        Whatever else lies between the keys is skipped by starting the next
        request just before the next wanted key. ``doubt``: so many keys that
        a listing leaves out are asked for by themselves, and as many again
        for as long as some are there after all.
        """
        wanted = sorted(keys, key=str.encode)
        found = self._find_sorted(wanted, threads)
        left = [key for key in wanted if key not in found] if doubt else []
        for start in range(0, len(left), max(doubt, 1)):
            asked = self.ask(left[start : start + doubt])
            if not asked:
                break
            found.update(asked)
        return found

    def _find_sorted(self, wanted: Sequence[str], threads: int) -> dict[str, ObjectInfo]:
        chunks = [wanted[start : start + PAGE] for start in range(0, len(wanted), PAGE)]
        if len(chunks) == 1:
            return self._find_chunk(chunks[0])
        found: dict[str, ObjectInfo] = {}
        pool = WorkerPool(threads, "find", bound())
        try:
            for part in pool.map(self._find_chunk, chunks):
                found.update(part)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return found

    def _find_chunk(self, wanted: Sequence[str]) -> dict[str, ObjectInfo]:
        prefix = _plain_start(os.path.commonprefix([wanted[0], wanted[-1]]))  # noqa: RUF071 - by character: it bounds keys
        found: dict[str, ObjectInfo] = {}
        if not self._disorder:
            self._skip_through(wanted, prefix, found)
        if self._disorder:
            self._sift(prefix, set(wanted), found)
        return found

    def _skip_through(self, wanted: Sequence[str], prefix: str, found: dict[str, ObjectInfo]) -> None:
        """Look from wanted key to wanted key, as the order of a listing allows; ends where it shows none."""
        remaining = set(wanted)
        items: Sequence[ObjectInfo]
        position, last, reached, more, jumped = 0, wanted[-1].encode(), b"", "", ""
        trail = Trail()
        while position < len(wanted):
            after = _just_before(wanted[position], prefix)
            begins = after.encode() >= reached and not (more and after == jumped)  # else the same page once more
            if begins:
                jumped, trail = after, Trail()
            items, more = self._listing.page(prefix, after) if begins else self._listing.page(prefix, token=more)
            while more and not items:  # a page may hold nothing, and the next one something
                self._answers.follow(trail, more, None)
                items, more = self._listing.page(prefix, token=more)
            if more:
                self._answers.follow(trail, more, items[-1])
            _keep(items, remaining, found)
            if not self._is_ordered(items, after.encode() if begins else reached):
                return
            reached = items[-1].key.encode() if items else b""
            if not more or reached >= last:
                return
            while position < len(wanted) and wanted[position].encode() <= reached:
                position += 1

    def _is_ordered(self, items: Sequence[ObjectInfo], floor: bytes) -> bool:
        """Tell whether keys ascend from ``floor`` on; one out of place is remembered, and told once."""
        for item in items:
            key = item.key.encode()
            if key < floor:
                if not self._disorder:
                    self._disorder = True
                    print(
                        f"note: the server lists out of byte order ({item.key!r} after a later key), so its listings "
                        "are read whole",
                        file=sys.stderr,
                    )
                return False
            floor = key
        return True

    def _sift(self, prefix: str, wanted: Set[str], found: dict[str, ObjectInfo]) -> None:
        """Look through whole pages in any order; keys that too many others lie between are asked for one by one."""
        pages = self._listing.pages(prefix)
        for items in islice(pages, SIFTED):
            _keep(items, wanted, found)
            if len(found) == len(wanted):
                return
        rest = next(pages, None)
        if rest is None:
            return
        _keep(rest, wanted, found)
        found.update(self.ask(wanted - found.keys()))

    def ask(self, keys: Iterable[str]) -> dict[str, ObjectInfo]:
        """Return what the bucket lists for each key that is asked for by itself, whatever other listings say."""
        found: dict[str, ObjectInfo] = {}
        for key in keys:
            for items in self._listing.pages(key):
                _keep(items, {key}, found)
                if key in found or (items and not self._disorder):  # in order, it is the first one
                    break
        return found


def _keep(items: Iterable[ObjectInfo], wanted: Set[str], found: dict[str, ObjectInfo]) -> None:
    """Add those that are wanted; of a key that is listed twice what came later, since it was replaced meanwhile."""
    for item in items:
        if item.key in wanted and (item.key not in found or item.modified >= found[item.key].modified):
            found[item.key] = item


def _just_before(key: str, prefix: str) -> str:
    """Return a string that sorts before ``key`` with nearly nothing between them."""
    plain = _plain_start(key)
    if plain != key:
        return plain if len(plain) > len(prefix) else ""
    head, last = key[:-1], ord(key[-1])
    if len(key) <= len(prefix):
        return ""  # the listing of the prefix begins with it
    if last - 1 < 0x21 or 0xD800 <= last - 1 <= 0xDFFF or len(key.encode()) > 1000:
        return head
    return f"{head}{chr(last - 1)}\U0010fffd"


def _plain_start(text: str) -> str:
    """Return ``text`` up to its first control character: servers echo these parameters in XML, which has none."""
    return next((text[:place] for place, sign in enumerate(text) if sign < " "), text)
