"""A bucket is scrubbed by its manifest: everything is listed, every byte is read within the period, what is wrong stays
named until it is right, and the log tells when anybody wrote to it.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lading.cli import scrub as command
from lading.core.atomic import decode_record, encode_record
from lading.core.command_line import run_main
from lading.testing.s3_server import Server
from lading.verification import manifest_spans, scrub_run
from lading.verification.fixity_log import read_fixity_log
from lading.verification.manifest import read_manifest
from tests.buckets import Bucket
from tests.servers import altered

DAY = 86400.0


@pytest.fixture
def scrubbed(tmp_path: Path, s3: Server, bucket: str) -> Bucket:
    s3.make_bucket(bucket)
    made = Bucket(tmp_path / "only", s3, bucket)
    made.directory.mkdir()
    return made


@dataclass
class Clock:
    """Runs scrub in this process, at times of its own."""

    bucket: Bucket
    capsys: pytest.CaptureFixture[str]
    now: float = 1_800_000_000.0

    def scrub(self, *flags: str, days: float = 1.0) -> tuple[int, dict[str, Any], str]:
        self.now += days * DAY
        words = ["--manifest", str(self.bucket.manifest), "--json", *flags]
        code = run_main(command.main, words)
        said = self.capsys.readouterr()
        return code, json.loads(said.out or "{}"), said.err


@pytest.fixture
def clock(scrubbed: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Clock:
    made = Clock(scrubbed, capsys)
    monkeypatch.setattr(scrub_run, "time", SimpleNamespace(time=lambda: made.now))
    monkeypatch.setattr(manifest_spans, "ROWS", 5)
    return made


@pytest.fixture
def liar(s3: Server) -> Iterator[Callable[..., altered.Altered]]:
    """A server whose disk flipped a byte of some objects: listings and heads are as they were."""
    flipped: set[str] = set()

    def flip(request: altered.Request, answer: altered.Answer) -> altered.Answer:
        status, fields, data = answer
        if request.method == "GET" and request.path.partition("?")[0].split("/", 2)[-1] in flipped:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return status, fields, data

    with altered.serve(s3, after=flip) as proxy:
        yield lambda *keys: (flipped.clear(), flipped.update(keys), proxy)[-1]


def test_every_byte_is_read_once_in_the_period(clock: Clock) -> None:
    clock.bucket.fill(100)
    seen: dict[str, int] = {}
    for day in range(10):
        code, found, said = clock.scrub("--period", "10d", "--bytes", "1500", days=1)
        assert (code, found["listed"]["objects"]["right"], found["read"]["bytes"] <= 1500) == (0, 100, True), said
        assert found["read"]["objects"] > 0
        if day == 4:
            assert found["ages"]["never"] > 0
    for span in clock.bucket.spans():
        seen[span["span"]] = seen.get(span["span"], 0) + 1
    assert sum(span["bytes"] for span in clock.bucket.spans()) >= 100 * 100
    code, found, _ = clock.scrub("--period", "10d", "--bytes", "1500")
    assert ("never" not in found["ages"], sum(found["ages"].values()), found["late_bytes"]) == (True, 10_000, 0)
    assert max(seen.values()) - min(seen.values()) <= 1, "the least recently verified first"
    oldest = min(int(day) for day in found["ages"])
    assert clock.now // DAY - oldest <= 10


def test_a_run_that_comes_late_reads_what_is_due(clock: Clock) -> None:
    clock.bucket.fill(60)
    clock.scrub("--period", "10d")
    _, found, _ = clock.scrub("--period", "10d", days=30)
    assert found["read"]["objects"] >= 60 - 10
    _, found, _ = clock.scrub("--period", "10d", "--bytes", "1000", days=30)
    assert (found["read"]["bytes"] <= 1000, found["late_bytes"] > 0) == (True, True)


def test_a_run_by_a_clock_that_was_years_ahead_proves_nothing_for_years(clock: Clock) -> None:
    clock.bucket.fill(60)
    clock.scrub("--all", days=5000)
    clock.now -= 5000 * DAY
    _, found, _ = clock.scrub("--period", "10d", "--all")
    assert found["read"]["objects"] == 60
    read = sum(clock.scrub("--period", "10d")[1]["read"]["objects"] for _ in range(11))
    assert read >= 60


def test_one_object_above_the_bound_is_read_by_itself(clock: Clock) -> None:
    clock.bucket.fill(3, size=5000)
    clock.bucket.fill(0)
    for _ in range(4):
        code, found, said = clock.scrub("--period", "3d", "--bytes", "100")
        assert code == 0, said
    assert "never" not in found["ages"]


def test_a_flipped_byte_is_found_and_named_until_it_is_right(clock: Clock, liar: Any) -> None:
    clock.bucket.fill(40)
    key = clock.bucket.rows[17].key
    proxy = liar(key)
    at = ("--endpoint-url", proxy.endpoint, "--period", "2d")
    codes = [clock.scrub(*at)[0] for _ in range(3)]
    assert codes[-1] == 4, "within the period"
    for _ in range(2):  # also in runs that read other parts
        code, found, said = clock.scrub(*at)
        assert code == 4
        assert f"damaged: 1: {key} (its bytes have another SHA256)" in said
        assert [item["key"] for item in found["wrong"]] == [key]
        assert found["ages"]["wrong"] == 100
    liar()
    code, found, said = clock.scrub(*at)
    assert (code, found["wrong"], "wrong" in found["ages"]) == (0, [], False), said


def test_a_row_that_the_newer_manifest_has_otherwise_is_no_longer_wrong(clock: Clock, liar: Any) -> None:
    clock.bucket.fill(20)
    row = clock.bucket.rows[3]
    at = ("--endpoint-url", liar(row.key).endpoint, "--period", "1s")
    assert clock.scrub(*at)[0] == 4
    body = clock.bucket.path(row.key).read_bytes()
    damaged = hashlib.sha256(body[:-1] + bytes([body[-1] ^ 1])).hexdigest()
    clock.bucket.rows[3] = replace(row, sha256=damaged)
    clock.bucket.write()
    before = len(clock.bucket.spans())
    assert clock.scrub("--endpoint-url", liar(row.key).endpoint, "--period", "100d")[0] == 0
    assert clock.bucket.spans()[before:], "what changed is read first"


def test_what_a_listing_shows_is_said_at_each_run(clock: Clock) -> None:
    made = clock.bucket
    made.fill(50)
    made.path(made.rows[0].key).unlink()
    made.path(made.rows[1].key).write_bytes(b"short")
    made.path(made.rows[2].key).write_bytes(b"y" * 100)
    made.path("dr1/extra").write_bytes(b"x")
    for _ in range(3):
        code, found, said = clock.scrub("--period", "2d")
        assert code == 4
        listed = found["listed"]["objects"]
        assert (listed["missing"], listed["different"], listed["extra"]) == (1, 2, 1)
        assert f"missing: 1: {made.rows[0].key}" in said
    assert sum(span["read"] for span in made.spans()) >= 47
    assert not found["wrong"], "they are named once, by the listing"


def test_the_servers_own_checksum_is_compared_before_bytes_are_read(clock: Clock, s3: Server) -> None:
    made = clock.bucket
    made.fill(2, size=9 << 20)
    made.rows = [replace(row, server_checksum="crc64nvme:AAAAAAAAAAA=") for row in made.rows]
    made.write()

    def name_one(request: altered.Request, answer: altered.Answer) -> altered.Answer:
        if request.method == "HEAD":
            answer[1].append(("x-amz-checksum-crc64nvme", "//////////8="))
            answer[1].append(("x-amz-checksum-type", "FULL_OBJECT"))
        return answer

    with altered.serve(s3, after=name_one) as proxy:
        code, found, said = clock.scrub("--endpoint-url", proxy.endpoint, "--period", "1s")
        bodies = [one for one in proxy.requests if one.method == "GET" and "list-type" not in one.path]
    assert (code, found["read"], "the server keeps another CRC64NVME" in said) == (
        4, {"objects": 0, "bytes": 0, "spared": 2}, True,
    ), said  # fmt: skip
    assert not [one for one in bodies if "dr1" in one.path]


def edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def without_read(line: bytes) -> bytes:
    """Change what a line says, its own sum made right again."""
    record = decode_record(line[:-1])
    assert record
    record.pop("crc", None)
    return encode_record({name: 7 if name == "read" else value for name, value in record.items() if name != "crc"})


def test_a_log_that_somebody_wrote_to_is_refused(clock: Clock) -> None:
    made = clock.bucket
    made.fill(20)
    clock.scrub("--period", "2d")
    clock.scrub("--period", "2d")
    whole = made.log.read_bytes()
    changes: list[Callable[[list[bytes]], list[bytes]]] = [
        lambda lines: lines[:2] + lines[3:],
        lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
        lambda lines: [*lines[:2], without_read(lines[2]), *lines[3:]],
        lambda lines: [*lines[:2], lines[2].replace(b'"read":', b'"road":'), *lines[3:]],
        lambda lines: lines[1:],
        lambda lines: [*lines[:3], lines[2], *lines[3:]],
    ]
    for change in changes:
        made.log.write_bytes(whole)
        edit(made.log, change)
        edited = made.log.read_bytes()
        code, _, said = clock.scrub("--period", "2d")
        assert (code, "the chain of the scrub log is broken" in said) == (4, True), said
        assert made.log.read_bytes() == edited, "kept for who asks"
    made.log.write_bytes(whole + b'{"kind":"span","torn')
    assert clock.scrub("--period", "2d")[0] == 0


def test_logs_of_another_bucket_format_or_run_are_refused(clock: Clock) -> None:
    made = clock.bucket
    made.fill(5)
    clock.scrub()
    whole = made.log.read_bytes()
    head = decode_record(whole.splitlines()[0]) or {}
    head.pop("crc", None)
    made.log.write_bytes(encode_record(head | {"format": 2}))
    code, _, said = clock.scrub()
    assert (code, "is a scrub log of format 2" in said) == (2, True), said
    made.log.write_bytes(encode_record(head | {"bucket": "elsewhere"}))
    code, _, said = clock.scrub()
    assert (code, "is of s3://elsewhere/dr1/" in said) == (4, True), said
    made.log.write_bytes(whole)
    import fcntl

    with made.log.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, _, said = clock.scrub()
        assert (code, "another scrub works with" in said) == (75, True), said
    made.log.unlink()
    made.manifest.write_bytes(made.manifest.read_bytes()[:-9])
    assert clock.scrub()[0] == 4
    assert not made.log.exists()


def test_a_killed_run_keeps_what_it_read(scrubbed: Bucket, s3: Server) -> None:
    scrubbed.fill(300)

    def slow(request: altered.Request) -> None:
        if request.method == "GET" and "list-type" not in request.path:
            time.sleep(0.02)

    environment = {**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"]}
    code = (
        "from lading.verification import manifest_spans; manifest_spans.ROWS = 5; import lading.cli.main as m; m.run()"
    )
    with altered.serve(s3, instead=slow) as proxy:
        words = ["scrub", "--endpoint-url", proxy.endpoint, "--all", "--max-workers", "1"]
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words], cwd=scrubbed.directory, env=environment, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while not (scrubbed.log.exists() and scrubbed.log.read_bytes().count(b'"kind":"span"') >= 5):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    state = read_fixity_log(scrubbed.log, read_manifest(scrubbed.manifest).header)
    assert (len(state.proofs) >= 5, state.last) == (True, None)
    scrubbed.run("scrub", "--all")
    assert sum(span["read"] for span in scrubbed.spans()) >= 300


def test_make_scrub_and_its_page(scrubbed: Bucket, make: Any) -> None:
    scrubbed.fill(30)
    made = make("scrub", cwd=scrubbed.directory, scrub_period="30d", scrub_bytes="1M")
    assert made.returncode == 0, made.stderr
    assert "30 of 30 objects are listed as the manifest says" in made.stdout
    assert make("scrub", cwd=scrubbed.directory, scrub_period="").returncode == 2
    assert make("report", cwd=scrubbed.directory, root="/r").returncode == 0
    page = (scrubbed.directory / "report/index.html").read_text()
    assert "Days since verification" in page
    assert "everything is to be read within 30 days" in page


@pytest.mark.parametrize("ranks", [3])
def test_ranks_share_a_run(scrubbed: Bucket, ranks: int) -> None:
    scrubbed.fill(200)
    code = (
        "from lading.verification import manifest_spans; manifest_spans.ROWS = 5; import lading.cli.main as m; m.run()"
    )
    mpiexec = str(Path(sys.executable).with_name("mpiexec"))
    words = [mpiexec, "-n", str(ranks), sys.executable, "-m", "mpi4py", "-c", code, "scrub", "--all", "--json"]
    done = subprocess.run(words, cwd=scrubbed.directory, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["read"]["objects"], found["read"]["bytes"]) == (200, 20_000)
    spans = scrubbed.spans()
    assert len({span["span"] for span in spans}) == len(spans), "no span is read twice"
    read_fixity_log(scrubbed.log)


@pytest.mark.long
def test_planted_errors_are_found_by_the_manifest_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A sample of ``python -m benchmarks.audit``: a read-only server, a period of scrubs, nothing but the manifest."""
    from benchmarks.audit.__main__ import main

    assert main(1200, 60) == 0
    assert "all found, none invented" in capsys.readouterr().out
