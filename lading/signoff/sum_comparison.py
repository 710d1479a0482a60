"""Compare what checksum files claim with the digests of the files: both sorted by path, side by side.

Input: sorted lines of digests, sorted claims. Output: the lines again, findings, the files that no checksum names.
Invariant: one path is held at a time; what is claimed of paths without a digest is looked at once all is compared.
"""

import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lading.checksums.kept_digests import KeptDigest, KeptDigests, decode_kept, key_of_line
from lading.core.atomic import decode_record
from lading.core.external_sort import LineSort
from lading.core.merging import full_join
from lading.signoff.run_log import SignoffFinding
from lading.signoff.sum_files import is_sum_file

Report = Callable[[SignoffFinding], None]


@dataclass
class SumCounts:
    """What the comparison came to: sums that agree, files that they are of, and files that have none."""

    agreeing: int = 0
    summed_files: int = 0
    without_sum: int = 0
    unread: int = 0  # sums of files that could not be read


class SumComparison:
    """One comparison; ``scratch`` holds what is looked at later."""

    def __init__(self, root: str, scratch: Path, report: Report) -> None:
        self.counts = SumCounts()
        self.unsummed = LineSort(scratch, "unsummed")
        self._root, self._report = root, report
        self._absent = LineSort(scratch, "absent")

    def lines(self, digests: Iterable[bytes], claims: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the lines of the digests, each compared with what is claimed of it."""
        grouped = ((key, list(group)) for key, group in groupby(claims, key_of_line))
        for line, found in full_join(digests, grouped, key_of_line, lambda pair: pair[0]):
            if line is None:
                assert found is not None
                for absent in found[1]:
                    self._absent.add(absent)
                continue
            yield line
            if found is not None:
                kept = decode_kept(line)
                if kept is not None:
                    self.counts.summed_files += 1
                    for claim in map(_decode, found[1]):
                        self._compare(kept, claim)
            else:
                self._note_unsummed(line)

    def _compare(self, kept: KeptDigest, claim: dict[str, Any]) -> None:
        value = kept.md5 if claim["algorithm"] == "md5" else kept.sha256
        if value == claim["value"]:
            self.counts.agreeing += 1
            return
        self._report(SignoffFinding("sum-differs", claim["path"], f"{claim['file']}, line {claim['line']}"))

    def _note_unsummed(self, line: bytes) -> None:
        kept = decode_kept(line)
        if kept is None:
            return
        directory, _, name = kept.path.rpartition("/")
        if is_sum_file(name):
            return
        self.counts.without_sum += 1
        self.unsummed.add(json.dumps([directory, name, kept.sha256]).encode("ascii"))

    def look_at_absent(self, kept: KeptDigests) -> None:
        """Say what is wrong with claims of paths that have no digest; a link is judged by what it leads to."""
        real_root = os.path.realpath(self._root).rstrip("/") + "/"
        for line in self._absent:
            claim = _decode(line)
            path, where = claim["path"], f"{claim['file']}, line {claim['line']}"
            try:
                real = os.path.realpath(os.path.join(self._root, path), strict=True)
                status = os.stat(real)
            except OSError:
                self._report(SignoffFinding("sum-without-file", path, where))
                continue
            found = kept.find(real[len(real_root) :]) if real.startswith(real_root) else None
            if found is not None:
                self._compare(found, claim)
            elif not stat.S_ISREG(status.st_mode) or not real.startswith(real_root):
                self._report(SignoffFinding("sum-not-file", path, where))
            else:
                self.counts.unread += 1  # it was left out, or could not be read, which is a finding of its own


def _decode(line: bytes) -> dict[str, Any]:
    record = decode_record(line)
    return record if record is not None else {"path": "", "algorithm": "", "value": "", "file": "", "line": 0}
