"""An upload that makes no SHA-256: what is recorded, what needs one says so, and how verify adds it later."""

import hashlib
import json
from pathlib import Path

import pytest

from lading.journal.records import PRESENT, SENT
from lading.testing.s3_server import Server
from lading.verification.manifest import ManifestRow, read_manifest
from tests.collision import ONE, OTHER
from tests.conftest import mostly_long
from tests.shipping import Site, make_site, write_files

LESS = "--digests=md5,crc64nvme"


@pytest.fixture
def site(tmp_path: Path, s3: Server, bucket: str) -> Site:
    """Two files that nobody has sent yet."""
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, {b"a.bin": 3_000})
    (site.release / "b.bin").write_bytes(ONE)
    site.plan()
    return site


def run(site: Site, stage: str, *flags: str, code: int = 0) -> str:
    done = getattr(site, stage)(*flags)
    assert done.returncode == code, done.stdout + done.stderr
    return str(done.stdout + done.stderr)


def rows(site: Site) -> dict[str, ManifestRow]:
    return {row.path: row for row in read_manifest(site.directory / "manifest.jsonl.zst").rows()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wanted(site: Site) -> dict[str, str]:
    return {name: sha256(site.release / name) for name in ("a.bin", "b.bin")}


def test_sha256_is_left_out_and_verify_records_it_later(site: Site) -> None:
    run(site, "upload", LESS)
    journals = "".join(path.read_text() for path in (site.directory / "journal").glob("*.jsonl"))
    assert journals.count('"sha256":null') == 2
    said = run(site, "verify")
    assert "note: 2 objects have no SHA-256, since digests= left it out" in said
    for row in rows(site).values():
        assert (row.sha256, row.file_sha256, row.verified_by) == (None, None, f"md5, {SENT}")
        assert row.md5 == hashlib.md5((site.release / row.path).read_bytes(), usedforsecurity=False).hexdigest()
    assert "SHA-256" not in run(site, "verify", "--full")
    assert {name: row.sha256 for name, row in rows(site).items()} == wanted(site)
    run(site, "verify")  # from the journal
    assert {name: row.sha256 for name, row in rows(site).items()} == wanted(site)
    assert "nothing to send" in run(site, "upload", LESS)


@pytest.mark.long
def test_reading_the_files_records_it_too(site: Site) -> None:
    run(site, "upload", LESS)
    assert "SHA-256" not in run(site, "verify", "--source=all")
    assert {name: row.sha256 for name, row in rows(site).items()} == wanted(site)


@pytest.mark.long
def test_other_bytes_there_are_found_without_it(site: Site) -> None:
    run(site, "upload", LESS)
    content = bytearray((site.release / "a.bin").read_bytes())
    content[1_000] ^= 1
    site.client().put_object(Bucket=site.bucket, Key="dr1/a.bin", Body=bytes(content))
    assert "a.bin" in run(site, "verify", "--full", code=4)


@pytest.mark.parametrize("flag", mostly_long(["--adopt=download", "--level=download"], "--adopt=download"))
def test_what_was_there_is_never_believed_by_less_than_was_asked_for(site: Site, flag: str) -> None:
    """The object has the file's MD5 and other bytes: the file is read once more, for its SHA-256."""
    site.client().put_object(Bucket=site.bucket, Key="dr1/b.bin", Body=OTHER)
    assert "already present 0" in run(site, "upload", LESS, flag)
    assert site.client().get_object(Bucket=site.bucket, Key="dr1/b.bin")["Body"].read() == ONE


@pytest.mark.long
def test_full_verification_of_what_was_there_reads_the_file_as_well(site: Site) -> None:
    site.client().put_object(Bucket=site.bucket, Key="dr1/b.bin", Body=OTHER)
    run(site, "upload", LESS)
    said = run(site, "verify")
    assert "1 object was already in the bucket and was compared by less than SHA-256" in said
    assert rows(site)["b.bin"].verified_by == f"md5, {PRESENT}"
    assert "b.bin" in run(site, "verify", "--full", code=4)


@pytest.mark.long
def test_a_changed_file_is_sent_again_and_an_untouched_one_is_not(site: Site) -> None:
    run(site, "upload", LESS)
    write_files(site.release, {b"a.bin": 3_001})
    site.plan()
    run(site, "upload")  # with all digests
    assert rows_of_journal(site)["dr1/a.bin"]["sha256"] == sha256(site.release / "a.bin")
    assert rows_of_journal(site)["dr1/b.bin"]["sha256"] is None
    run(site, "verify", "--deep=2")
    assert {name: row.sha256 for name, row in rows(site).items()} == wanted(site)


def rows_of_journal(site: Site) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for path in sorted((site.directory / "journal").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record["kind"] == "done" and record.get("gen", 0) >= found.get(record["key"], {}).get("gen", 0):
                found[record["key"]] = record
    return found


@pytest.mark.long
def test_what_needs_it_says_so(site: Site, tmp_path: Path) -> None:
    run(site, "upload", LESS)
    run(site, "verify")
    out = tmp_path / "sums"
    done = site.command("-m", "lading", "export", "sha256sums", "-o", str(out))
    assert "verify_flags=--full" in done.stdout + done.stderr
    refused = site.upload(LESS, "--reuse=manifest.jsonl.zst")
    assert refused.returncode == 2
    assert refused.stderr.strip().endswith("add sha256 to --digests, or leave --reuse out")
    assert refused.stderr.count("\n") == 1
    write_files(site.release, {b"c.bin": 5_000})
    site.plan()
    said = run(site, "upload", "--reuse=manifest.jsonl.zst")
    assert "note: no object of manifest.jsonl.zst has a SHA-256 there" in said
    assert site.upload("--digests=crc64nvme").returncode == 2
