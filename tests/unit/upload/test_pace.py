"""How long an upload will take still: objects and bytes count, each by what was measured of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lading.core.atomic import AppendLog
from lading.journal.records import VerificationRecord, encode_failure, encode_verification
from lading.upload.pace import BYTES_PER_SECOND, OBJECTS_PER_SECOND, ChildBytes, OtherRanks, Pace

SPAN = 2.0


def errors(phases: list[tuple[float, float, float]], *, skip: float) -> list[float]:
    """Return |ETA / truth - 1|, sorted, over phases of (seconds, objects a second, bytes a second)."""
    pace, found, now = Pace(), [], 0.0
    total = sum(phase[0] for phase in phases)
    objects, size = (int(sum(phase[0] * phase[place] for phase in phases)) for place in (1, 2))
    for seconds, objects_rate, bytes_rate in phases:
        for _ in range(round(seconds / SPAN)):
            pace.learn(SPAN, SPAN * objects_rate, SPAN * bytes_rate)
            now += SPAN
            objects -= int(SPAN * objects_rate)
            size -= int(SPAN * bytes_rate)
            if skip <= now < total - 4 * SPAN:
                found.append(abs(pace.left(objects, size) / (total - now) - 1))
    return sorted(found)


@pytest.mark.parametrize(
    "phases",
    [
        # Many small files, then huge ones: time by objects alone said "4 s left" for twenty minutes.
        [(400, 750, 750e3), (160, 0, 80e6)],
        # Huge ones first, and both at once.
        [(160, 0, 80e6), (400, 750, 750e3)],
        [(30, 400, 40e6), (400, 750, 750e3), (100, 0, 80e6)],
        # A slow server, a fast one.
        [(600, 60, 60e3), (600, 0, 20e6)],
        [(60, 4000, 4e6), (30, 0, 900e6)],
        # One kind of file, as in most releases.
        [(600, 25, 100e6)],
    ],
)
def test_the_error_stays_small(phases: list[tuple[float, float, float]]) -> None:
    found = errors(phases, skip=min(60.0, phases[0][0] / 2))
    assert found[len(found) // 2] < 0.3, found


def test_before_anything_is_measured_the_defaults_count() -> None:
    pace = Pace()
    assert pace.left(OBJECTS_PER_SECOND, BYTES_PER_SECOND) == pytest.approx(2.0)
    assert pace.left(0, 0) == 0


def test_no_time_is_negative() -> None:
    pace = Pace()
    for objects, size in ((1000, 0), (0, 10**9), (500, 10**6), (1, 10**10)):
        pace.learn(1.0, objects, size)
        assert pace.left(1000, 0) >= 0
        assert pace.left(0, 10**9) >= 0


def test_what_a_child_writes_is_counted(tmp_path: Path) -> None:
    count = ChildBytes()
    before = count.count(0)  # servers of other tests are children of this process too
    code = "import sys; open(sys.argv[1], 'wb').write(b'x' * 3_000_000); print('done', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        if not os.access(f"/proc/{child.pid}/io", os.R_OK):
            pytest.skip("this kernel does not count what a process writes")
        assert 3_000_000 <= count.count(0) - before < 4_000_000
        assert child.stdin is not None
        child.stdin.close()
        child.wait()
    assert count.count(0) - before >= 3_000_000, "what one did that ended counts on"


def test_other_ranks_are_counted_by_their_journals(tmp_path: Path) -> None:
    path = tmp_path / "peer.jsonl"
    others = OtherRanks([path, tmp_path / "none.jsonl"])
    others.look()
    assert (others.objects, others.bytes) == (0, 0)
    with AppendLog(path) as log:
        log.append([{"kind": "journal"}])
        for size in (7, 80):
            proof = VerificationRecord(
                'odd"size":9', size, 0, "e", "2026-01-02T03:04:05Z", None, None, None, "etag", "batch"
            )
            log.append([encode_verification(proof), encode_failure("k", "k", "batch", "object", "gone", 1)])
            log.sync()
            others.look()
    assert (others.objects, others.bytes) == (2, 87)
