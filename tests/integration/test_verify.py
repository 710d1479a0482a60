"""``verify`` among files and connections that fail: what cannot be compared is named, all else goes on."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from lading.coordination.lease import Lease
from lading.core.atomic import encode_record, read_log
from lading.core.progress import Progress
from lading.journal.index_file import index_path
from lading.journal.records import VerificationRecord
from lading.objectstore.download import ObjectReader
from lading.objectstore.object_info import ObjectInfo
from lading.plan.planned_object import PlannedObject
from lading.testing.s3_server import Server
from lading.verification import audit as audit_module
from lading.verification.audit import Audit
from lading.verification.compare import CompareLevel, Comparison
from lading.verification.manifest import SourceRead, read_manifest
from lading.verification.read_sample import Sample
from lading.verification.wanted_objects import Wanted
from tests import labtree
from tests.conftest import mostly_long
from tests.servers import altered, faults
from tests.servers.altered import Answer, Request
from tests.shipping import Site, make_site, write_files

COUNT = 30


@pytest.fixture
def site(tmp_path: Path, s3: Server, bucket: str) -> Site:
    """A release that was sent and proven."""
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, {b"run%d/%02d.bin" % (n % 3, n): 2_000 + n for n in range(COUNT)})
    site.plan()
    sent = site.upload()
    assert sent.returncode == 0, sent.stderr
    return site


@pytest.fixture
def network(site: Site, s3: Server, tmp_path: Path) -> Iterator["Network"]:
    """The same release, sent through a network whose faults are switched on later."""
    shutil.rmtree(site.directory / "journal")
    network = Network(site, s3)
    with faults.serve(s3, lambda request: network.pick(request)) as proxy:
        site.endpoint = proxy.endpoint
        assert site.upload().returncode == 0
        yield network


class Network:
    """A site behind a proxy; ``pick`` chooses the faults."""

    def __init__(self, site: Site, server: Server) -> None:
        self.site, self.server = site, server
        self.pick: Callable[[faults.Request], faults.Fault | None] = lambda request: None


def proven(site: Site) -> set[str]:
    return {row.key for row in read_manifest(site.directory / "manifest.jsonl.zst").rows()}


def verify_json(site: Site, *flags: str):
    done = site.verify("--json", *flags)
    return done, json.loads(done.stdout.splitlines()[-1])["objects"]


def test_a_directory_packed_into_a_file_is_gone(site: Site) -> None:
    """ENOTDIR: ``run1`` is a file now; what was below it is gone here, and proven by the journal."""
    shutil.rmtree(site.release / "run1")
    (site.release / "run1").write_bytes(b"packed")
    done = site.verify()
    assert done.returncode == 0, done.stderr
    assert len(proven(site)) == COUNT
    assert "10 verified files no longer exist here" in done.stdout


def test_a_planned_file_that_vanished_before_it_was_sent_is_named(site: Site) -> None:
    """Another upload could not send it, so that is not the advice; what is only unsent has that advice still."""
    write_files(site.release, {b"late/there.bin": 7, b"late/gone \x1b[2J.bin": 8})
    site.plan()
    (site.release / "late" / "gone \x1b[2J.bin").unlink()
    done, objects = verify_json(site)
    assert (done.returncode, objects["unsent"], objects["vanished"]) == (3, 2, 1), done.stderr
    vanished, unsent = done.stderr.splitlines()
    assert "1 planned file has vanished" in vanished
    assert "late/gone " in vanished
    assert "\x1b" not in vanished
    assert "rm find.json; make find.json batch.json" in vanished
    assert unsent == "error: 1 object was never sent; run: make upload"


def test_what_cannot_be_looked_at_is_a_finding_and_the_rest_goes_on(site: Site) -> None:
    """The old proof stays, for nothing speaks against it."""
    victim = site.release / "run1" / "01.bin"
    kept = victim.read_bytes(), victim.stat().st_mtime_ns
    victim.unlink()
    victim.symlink_to(victim)
    done, objects = verify_json(site)
    assert done.returncode == 3, done.stderr
    assert "dr1/run1/01.bin (unreadable here: it is a symbolic link now)" in done.stderr
    assert (objects["proven"], objects["unreadable"], objects["differing"]) == (COUNT - 1, 1, 0)
    assert len(proven(site)) == COUNT - 1
    victim.unlink()
    victim.write_bytes(kept[0])
    os.utime(victim, ns=(kept[1], kept[1]))
    for read in (1, 0):  # size and mtime are as they were, the inode is another: once
        done, objects = verify_json(site)
        assert done.returncode == 0, done.stderr
        assert objects["read"] == read


def key_gets(request: faults.Request) -> bool:
    return request.method == "GET" and request.key != ""


def test_broken_bodies_are_continued(network: Network) -> None:
    """Each object's answer is cut once: the rest is asked for, every object is proven."""
    hit: set[str] = set()

    def pick(request: faults.Request) -> faults.Fault | None:
        if key_gets(request) and request.key not in hit:
            hit.add(request.key)
            return faults.Truncate()
        return None

    network.pick = pick
    done, objects = verify_json(network.site, "--full")
    assert done.returncode == 0, done.stderr
    assert len(hit) == COUNT
    assert (objects["proven"], objects["downloaded"]) == (COUNT, COUNT)


@pytest.mark.long
def test_a_body_that_never_comes_is_a_finding(network: Network) -> None:
    """One object's bytes break every time: bounded patience, a finding, and its proof stays."""
    victim = "dr1/run1/01.bin"
    network.pick = lambda r: faults.Truncate() if key_gets(r) and r.key == victim else None
    done, objects = verify_json(network.site, "--full")
    assert done.returncode == 3, done.stderr
    assert f"{victim} (unreadable there: " in done.stderr
    assert (objects["proven"], objects["unreadable"]) == (COUNT - 1, 1)
    assert victim not in proven(network.site)
    network.pick = lambda r: None
    assert verify_json(network.site, "--full")[1]["proven"] == COUNT


def test_an_object_deleted_since_the_listing_is_missing(network: Network) -> None:
    victim = "dr1/run2/02.bin"

    def pick(request: faults.Request) -> faults.Fault | None:
        if key_gets(request):
            labtree.client(network.server).delete_object(Bucket=network.site.bucket, Key=victim)
        return None

    network.pick = pick
    done, objects = verify_json(network.site, "--full")
    assert done.returncode == 4, done.stderr
    assert f"missing: 1: {victim}" in done.stderr
    assert (objects["proven"], objects["missing"]) == (COUNT - 1, 1)
    network.pick = lambda r: None
    assert network.site.upload().returncode == 0
    assert network.site.verify().returncode == 0


def test_a_pipe_in_place_of_a_file_is_a_finding(site: Site) -> None:
    """Nobody writes into it: reading it would never end."""
    victim = site.release / "run1" / "01.bin"
    victim.unlink()
    os.mkfifo(victim)
    done, objects = verify_json(site)
    assert done.returncode == 3, done.stderr
    assert "dr1/run1/01.bin (unreadable here: it is a pipe now)" in done.stderr
    assert (objects["proven"], objects["unreadable"]) == (COUNT - 1, 1)


@pytest.mark.parametrize("known", [False, True], ids=["unproven", "proven"])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [(errno.ENOENT, ""), (errno.ENOTDIR, ""), (errno.EIO, "unreadable")],
    ids=["ENOENT", "ENOTDIR", "EIO"],
)
def test_a_file_that_vanishes_while_it_is_compared(tmp_path: Path, known: bool, fault: int, kind: str) -> None:
    """Part sizes of other clients are tried by reading again: by then the file may be gone."""
    path = tmp_path / "a"
    path.write_bytes(b"content")
    listed = ObjectInfo("a", 7, "e" * 32 + "-2", "2026-01-01T00:00:00Z")
    proof = (
        VerificationRecord("a", 7, 1, listed.etag, listed.modified, None, "0" * 64, "", "etag", "b", None)
        if known
        else None
    )

    class Vanishing(Comparison):
        def match(self, *_: object, **__: object) -> str | None:
            raise OSError(fault, os.strerror(fault))

    class Nothing:
        """Neither a bucket nor a journal is asked for anything."""

        def write(self, records: list[object]) -> None:
            self.records = list(records)

    nothing: Any = Nothing()
    audit = Audit(nothing, Vanishing(nothing, CompareLevel.ETAG), nothing, Sample(ObjectReader(nothing), 1, 0, False))
    try:
        pairs = [(Wanted(PlannedObject("a", str(path), "a", 7, None, "b"), proof), listed)]
        with Progress("verify") as progress:
            rows = list(audit.rows(pairs, progress))
    finally:
        audit.close()
    assert len(rows) == (known and not kind)
    assert audit.findings.names == ({} if rows else {kind or "differing": ANY})


def test_void_records_do_not_pile_up(tmp_path: Path) -> None:
    """A bucket that lost everything never fills a group of objects to compare."""
    groups: list[int] = []

    class Log:
        def write(self, records: list[object]) -> None:
            groups.append(len(records))

        def page(self, prefix: str) -> tuple[list[ObjectInfo], str]:
            return [], ""  # asked for by itself, a key is lost too

    log: Any = Log()
    proof = VerificationRecord("a", 7, 1, "e", "", None, "0" * 64, "", "etag", "b", None)
    lost = ((Wanted(PlannedObject("a", "/a", f"{n:06}", 7, None, "b"), proof), None) for n in range(2_500))
    audit = Audit(log, Comparison(log, CompareLevel.ETAG), log, Sample(ObjectReader(log), 1, 0, False))
    with Progress("verify") as progress:
        assert list(audit.rows(lost, progress)) == []
    audit.close()
    assert sum(groups) == audit.findings.missing == 2_500
    assert max(groups) <= 1_000


class Forgetful:
    """A bucket whose listing leaves out objects: asked for by itself, every ``there``-th of them is there."""

    def __init__(self, there: int) -> None:
        self.there, self.asked, self.voided = there, 0, 0

    def page(self, prefix: str) -> tuple[list[ObjectInfo], str]:
        self.asked += 1
        return [ObjectInfo(prefix, 7, "e", "")] if int(prefix) % self.there == 0 else [], ""

    def write(self, records: list[object]) -> None:
        self.voided += len(records)


@pytest.mark.parametrize("there", [1, 3, 1_000_000])
def test_a_listing_that_contradicts_itself_is_not_asked_about_for_ever(monkeypatch, there: int) -> None:
    """Whether all that it leaves out is there or only some: requests are bounded, and the rest is not judged."""
    monkeypatch.setattr(audit_module, "MOST_CONTRADICTED", 200)
    monkeypatch.setattr(audit_module, "MOST_ASKED", 1_500)
    many = 20_000
    bucket: Any = Forgetful(there)
    proof = VerificationRecord("a", 7, 1, "e", "", None, "0" * 64, "", "etag", "b", None)
    lost = ((Wanted(PlannedObject("a", "/a", f"{n:06}", 7, None, "b"), proof), None) for n in range(many))
    audit = Audit(bucket, Comparison(bucket, CompareLevel.ETAG), bucket, Sample(ObjectReader(bucket), 1, 0, False))
    with Progress("verify") as progress:
        assert list(audit.rows(lost, progress)) == []
    audit.close()
    found = audit.findings
    assert bucket.asked <= 1_500 + audit_module.ASKED_AT_ONCE
    assert found.missing + found.unreadable == many, "each has a verdict"
    assert found.unjudged == many - bucket.asked
    assert found.missing == bucket.voided == bucket.asked - (found.unreadable - found.unjudged), (
        "no other is taken back"
    )


def test_what_is_not_judged_is_said(site: Site, s3: Server) -> None:
    """A listing without any of the objects, which are there when asked for by themselves."""
    hides: list[bool] = []
    shutil.rmtree(site.directory / "journal")

    def leave_out(request: Request, answer: Answer) -> Answer:
        status, headers, body = answer
        if hides and "list-type=2" in request.path and ".bin" not in request.path:
            body = re.sub(rb"<Contents>(?:(?!</Contents>).)*run[012]/..\.bin.*?</Contents>", b"", body, flags=re.DOTALL)
        return status, headers, body

    code = (
        "import sys; from lading.cli import verify; from lading.verification import audit\n"
        "from lading.core.command_line import run_main\n"
        "audit.MOST_CONTRADICTED, audit.ASKED_AT_ONCE = 3, 5; sys.exit(run_main(verify.main))"
    )
    with altered.serve(s3, after=leave_out) as proxy:
        site.endpoint = proxy.endpoint
        assert site.upload().returncode == 0
        hides.append(True)
        done = site.command("-c", code, *site.arguments("--json"))
    assert done.returncode == 3, done.stdout + done.stderr
    objects = json.loads(done.stdout.splitlines()[-1])["objects"]
    assert (objects["unreadable"], objects["unjudged"], objects["missing"]) == (COUNT, COUNT - 5, 0)
    assert f"of these, not decided: {COUNT - 5}" in done.stderr


def test_what_killed_runs_left_is_swept_while_nobody_works(site: Site) -> None:
    left = [
        site.directory / ".verify-ab_cd012",
        site.directory / ".manifest.jsonl.zst.ab_cd012",
        site.directory / "runs" / ".20260101T000000Z-verify-host-1-2.json.ab_cd012",
    ]
    kept = [site.directory / ".verify-notes.txt", site.directory / ".manifest.jsonl.zst.old"]
    left[0].mkdir()
    for path in (left[0] / "0.jsonl", *left[1:], *kept):
        path.write_bytes(b"half")
    with Lease(site.directory / "journal", "another", reader=True):
        assert site.verify().returncode == 0
    assert all(path.exists() for path in left + kept)
    assert site.verify().returncode == 0
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_interrupted_it_ends_within_a_block(site: Site) -> None:
    """A file that grew to 256 GB since is being read for its digests."""
    victim = site.release / "run1" / "01.bin"
    os.truncate(victim, 1 << 38)
    command = [sys.executable, "-m", "lading", "verify", *site.arguments()]
    process = subprocess.Popen(command, cwd=site.directory, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while not opened(process.pid, victim) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said == "interrupted; run the same command again to continue\n"
    assert not list(site.directory.glob(".verify-*"))


def rewrite(path: Path, content: bytes) -> None:
    """Change a file and keep its size and modification time, as ``cp -p`` and ``touch -r`` do."""
    times = path.stat().st_mtime_ns
    assert len(content) == path.stat().st_size
    path.write_bytes(content)
    os.utime(path, ns=(times, times))


def bodies(site: Site, *keys: str) -> list[bytes]:
    return [site.client().get_object(Bucket=site.bucket, Key=key)["Body"].read() for key in keys]


@pytest.fixture
def twins(site: Site) -> tuple[Path, Path]:
    """Two files of one size and one modification time, sent."""
    pair = site.release / "run0" / "00.bin", site.release / "run1" / "01.bin"
    content = pair[0].read_bytes()
    pair[1].write_bytes(content[::-1])
    for path in pair:
        os.utime(path, ns=(10**18, 10**18))
    site.plan()
    assert site.upload().returncode == 0
    assert site.verify().returncode == 0
    return pair


TWINS = ("dr1/run0/00.bin", "dr1/run1/01.bin")


@pytest.mark.parametrize("first", ["upload", "verify"])
def test_swapped_files_of_one_size_and_time_are_noticed(site: Site, twins: tuple[Path, Path], first: str) -> None:
    aside = site.directory / "aside"
    twins[0].rename(aside)
    twins[1].rename(twins[0])
    aside.rename(twins[1])
    if first == "verify":
        done = site.verify()
        assert done.returncode == 4
        assert all(key in done.stderr for key in TWINS)
    sent = site.upload()
    assert sent.returncode == 0, sent.stderr
    assert site.runs()[-1]["objects"]["sent"] == 2
    if first == "upload":
        assert "2 verified files changed since they were read" in sent.stderr
    assert bodies(site, *TWINS) == [path.read_bytes() for path in twins]
    assert site.verify("--source", "--full").returncode == 0


def test_bytes_rewritten_under_the_old_time_are_noticed(site: Site, twins: tuple[Path, Path]) -> None:
    rewrite(twins[0], os.urandom(twins[0].stat().st_size))
    done = site.verify()
    assert done.returncode == 4
    assert f"differing: 1: {TWINS[0]}" in done.stderr
    assert TWINS[0] not in proven(site)
    assert site.upload().returncode == 0
    assert bodies(site, TWINS[0]) == [twins[0].read_bytes()]
    assert site.verify().returncode == 0


@pytest.mark.parametrize("first", ["upload", "verify"])
def test_what_only_looks_changed_is_read_once_and_sent_never(site: Site, first: str) -> None:
    for path in site.release.rglob("*.bin"):
        path.chmod(0o640)
    if first == "upload":
        done = site.upload()
        assert (done.returncode, site.runs()[-1]["objects"]["sent"]) == (0, 0), done.stderr
    for read in (COUNT if first == "verify" else 0, 0):
        done, objects = verify_json(site)
        assert (done.returncode, objects["read"], objects["proven"]) == (0, read, COUNT)
    assert "nothing to send" in site.upload().stdout
    rows = list(read_manifest(site.directory / "manifest.jsonl.zst").rows())
    assert {row.verified_by for row in rows} == {"md5, sent"}, "it is the object that was sent"
    assert all(row.sha256 for row in rows)


def test_upload_looks_at_proven_files_as_it_is_told(site: Site, twins: tuple[Path, Path]) -> None:
    rewrite(twins[0], os.urandom(twins[0].stat().st_size))
    assert "nothing to send" in site.upload("--look=never").stdout
    assert site.upload("--look=always").returncode == 0
    assert site.runs()[-1]["objects"]["sent"] == 1


def edit_records(site: Site, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the records of the journals; the indexes are made again from them."""
    for path in (site.directory / "journal").glob("*.jsonl"):
        records = [record for record in read_log(path) if record]
        for record in records:
            record.pop("crc", None)
            change(record)
        path.write_bytes(b"".join(encode_record(record) for record in records))
        index_path(path).unlink(missing_ok=True)


def make_first_edition(record: dict[str, Any]) -> None:
    for name in ("ctime", "inode", "dev", "origin", "sum", "suspect"):
        record.pop(name, None)


def test_records_of_the_first_edition_are_taken_by_its_rule(site: Site) -> None:
    """Size and mtime; what they do not know is unknown, and learnt when files are read."""
    edit_records(site, make_first_edition)
    for path in site.release.rglob("*.bin"):
        path.chmod(0o640)
    assert "nothing to send" in site.upload().stdout
    done, objects = verify_json(site)
    assert (done.returncode, objects["read"], objects["proven"]) == (0, 0, COUNT)
    rows = list(read_manifest(site.directory / "manifest.jsonl.zst").rows())
    assert {row.verified_by for row in rows} == {None}
    assert all(row.sha256 for row in rows)
    for number in range(2):
        done, objects = verify_json(site, "--source")
        assert (done.returncode, objects["read"]) == (0, COUNT)
        if not number:
            for path in site.release.rglob("*.bin"):
                path.chmod(0o600)
    assert verify_json(site)[1]["read"] == 0


@pytest.mark.parametrize("edition", mostly_long([1, 2], 2))
def test_a_file_that_rots_is_found_by_reading_and_never_sent_over_its_object(site: Site, edition: int) -> None:
    """The disk gives other bytes in an unchanged state: the good copy in the bucket must stay."""
    victim, key = site.release / "run1" / "01.bin", "dr1/run1/01.bin"
    good = victim.read_bytes()
    rewrite(victim, bytes([good[0] ^ 1]) + good[1:])

    def forget(record: dict[str, Any]) -> None:
        if edition == 1:
            make_first_edition(record)
        elif record.get("key") == key:
            record.update(ctime=victim.stat().st_ctime_ns, inode=victim.stat().st_ino)

    edit_records(site, forget)
    assert site.verify().returncode == 0, "it is not read"
    for flags in (("--source",), ()):
        done = site.verify(*flags)
        assert done.returncode == 4
        assert f"{key} (the file here was read again and has other bytes" in done.stderr
        assert key not in proven(site)
        assert "nothing to send" in site.upload().stdout
        assert bodies(site, key) == [good]
    rewrite(victim, good)
    assert site.verify().returncode == 0
    rewrite(victim, good[::-1])
    assert site.verify().returncode == 4, "now it was changed"
    assert site.upload().returncode == 0
    assert bodies(site, key) == [good[::-1]]


def test_a_part_of_the_source_is_read(site: Site) -> None:
    done, objects = verify_json(site, "--source=7")
    assert (done.returncode, objects["read"], objects["proven"]) == (0, 7, COUNT)
    done, objects = verify_json(site, "--source=9k")
    assert (done.returncode, objects["read"]) == (0, 4)
    assert read_manifest(site.directory / "manifest.jsonl.zst").header.settings["source"] == "9000 bytes"
    done = site.verify("--source=some")
    assert done.returncode == 2
    assert "neither a number of files nor a size" in done.stderr


def test_a_source_that_is_gone_is_not_called_read(site: Site) -> None:
    """An emptied mount point: the bucket is as it was, but no file was compared."""
    aside = site.directory / "aside"
    site.release.rename(aside)
    site.release.mkdir()
    (site.release / "run0").mkdir()
    assert site.verify().returncode == 0, "sources may be deleted after delivery"
    manifest = site.directory / "manifest.jsonl.zst"
    assert read_manifest(manifest).end.source is None
    for flag, asked in (("--source", COUNT), ("--source=7", 7), ("--source=9k", 4)):
        done = site.verify("--json", flag)
        assert done.returncode == 3, done.stdout + done.stderr
        assert f"--source was to read {asked} files that are gone: run" in done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["source"] == {"asked": asked, "read": 0, "gone": asked}
        assert read_manifest(manifest).end.source == SourceRead(asked, 0, asked)
        assert f"{asked} source files gone" in site.command("-m", "lading", "status").stdout
    site.release.joinpath("run0").rmdir()
    site.release.rmdir()
    aside.rename(site.release)
    (site.release / "run1" / "01.bin").unlink()
    done = site.verify("--source")
    assert done.returncode == 3
    assert "gone: run1/01.bin; mount" in done.stderr
    assert read_manifest(manifest).end.source == SourceRead(COUNT, COUNT - 1, 1)
    assert site.verify("--source=0").returncode == 0


def opened(pid: int, path: Path) -> bool:
    """Tell whether a process has a file open."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if descriptor.readlink() == path:
                return True
    return False
