"""A bucket is compared with its manifest when everything else is gone: source, plan, journals and credentials."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lading.objectstore.object_info import ObjectInfo
from lading.testing.s3_server import Server, serve
from lading.verification.manifest import ManifestHeader, ManifestRow, read_manifest, write_manifest
from lading.verification.manifest_audit import compare_listed, key_roots
from lading.verification.object_check import AuditFinding
from tests import labtree
from tests.servers import altered
from tests.shipping import Site, make_site, write_files

COUNT = 30
WHEN = "2026-01-01T00:00:00Z"


@pytest.fixture
def site(tmp_path: Path, s3: Server, bucket: str) -> Site:
    """A release that was sent and verified; then only the manifest is kept."""
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, {b"run%d/%02d.bin" % (n % 3, n): 2_000 + n for n in range(COUNT)})
    site.plan()
    assert site.upload().returncode == 0
    done = site.verify()
    assert done.returncode == 0, done.stderr
    forget(site)
    return site


def forget(site: Site) -> None:
    """Remove all but the manifest."""
    only = site.directory / "only"
    only.mkdir()
    shutil.move(site.directory / "manifest.jsonl.zst", only / "m.zst")
    for path in site.directory.iterdir():
        if path != only:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    site.directory = only


def audit(site: Site, *flags: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    return site.command("-m", "lading", "verify", "--manifest", "m.zst", *flags, **more)


def put(site: Site, key: str, body: bytes) -> None:
    site.client().put_object(Bucket=site.bucket, Key=key, Body=body)


def test_a_bucket_that_is_right(site: Site) -> None:
    done = audit(site, "--deep", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["objects"] == {
        "right": COUNT, "missing": 0, "different": 0, "superseded": 0, "extra": 0, "unreadable": 0,
    }  # fmt: skip
    assert (found["read"], found["bytes"]["read"]) == (COUNT, sum(2_000 + n for n in range(COUNT)))
    assert [path.name for path in site.directory.iterdir()] == ["m.zst"], "nothing is written"
    assert json.loads(audit(site, "--deep", "7", "--json").stdout)["read"] == 7
    few = json.loads(audit(site, "--deep=10k", "--json").stdout)
    assert (few["read"] > 0, few["bytes"]["read"] <= 10_000) == (True, True)


def test_all_that_a_listing_shows(site: Site, make: Any) -> None:
    client = site.client()
    client.delete_object(Bucket=site.bucket, Key="dr1/run0/00.bin")
    put(site, "dr1/run1/01.bin", b"x" * 2_001)  # another content of the same size
    put(site, "dr1/run2/02.bin", b"short")
    put(site, "dr1/run2/added~.bin", b"extra")
    put(site, "dr2/of/another/release", b"no business of this manifest")
    done = audit(site)
    assert done.returncode == 4, done.stderr
    assert "27 of 30 objects are as the manifest says" in done.stdout
    lines = done.stderr.splitlines()
    assert "error: missing: 1: dr1/run0/00.bin" in lines
    assert (
        "error: different: 2: dr1/run1/01.bin (same size, another ETag), dr1/run2/02.bin (5 bytes, recorded 2,002)"
        in lines
    )
    assert "error: extra: 1: dr1/run2/added~.bin" in lines
    assert audit(site, "--json").returncode == 4
    by_make = make("verify", cwd=site.directory, manifest="m.zst")
    assert (by_make.returncode, "error: missing: 1: dr1/run0/00.bin" in by_make.stderr) == (2, True), by_make.stderr


def test_extra_objects_may_be_allowed(site: Site) -> None:
    put(site, "dr1/extra", b"")
    done = audit(site)
    assert (done.returncode, "error: extra: 1: dr1/extra" in done.stderr) == (4, True)
    done = audit(site, "--allow-extra")
    assert (done.returncode, "note: extra: 1: dr1/extra" in done.stderr) == (0, True)


def change(site: Site, **values: Any) -> None:
    """Write the manifest with another first row."""
    path = site.directory / "m.zst"
    manifest = read_manifest(path)
    rows = list(manifest.rows())
    rows[0] = replace(rows[0], **values)
    write_manifest(path, manifest.header, rows, complete=True)


def test_only_reading_finds_bytes_that_the_listing_hides(site: Site) -> None:
    change(site, sha256="0" * 64)
    assert audit(site).returncode == 0
    done = audit(site, "--deep=all")
    assert done.returncode == 4
    assert "different: 1: dr1/run0/00.bin (its bytes have another SHA256)" in done.stderr


def test_reading_clears_an_object_with_another_etag(site: Site) -> None:
    """As after a copy in parts: the bytes decide."""
    change(site, etag="0" * 32 + "-2", md5=None)
    assert audit(site).returncode == 4
    done = audit(site, "--deep=all")
    assert done.returncode == 0, done.stderr


def test_a_row_without_an_etag_is_compared_by_size_and_said(site: Site) -> None:
    change(site, etag="", md5=None)
    done = audit(site)
    assert (done.returncode, "1 object has no recorded ETag" in done.stdout) == (0, True), done.stderr


def test_a_damaged_manifest_and_one_of_another_bucket_are_refused(site: Site) -> None:
    done = audit(site, "--bucket", "s3://elsewhere")
    assert (done.returncode, f"describes s3://{site.bucket}/, not s3://elsewhere/" in done.stderr) == (4, True)
    assert audit(site, "--bucket", site.place).returncode == 0
    path = site.directory / "m.zst"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert audit(site).returncode == 4
    path.write_bytes(b"{}\n")
    assert audit(site).returncode in (2, 4)
    path.unlink()
    assert audit(site).returncode == 2
    path.write_bytes(whole)
    assert audit(site, "--deep=some").returncode == 2


def test_without_an_account(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public bucket, with the flag and by itself where there are no credentials."""
    with serve(tmp_path / "s3", anonymous=True) as public:
        for name, value in public.environment().items():
            monkeypatch.setenv(name, value)
        site = make_site(tmp_path / "site", public, bucket)
        write_files(site.release, {b"a/%d" % n: 100 for n in range(5)})
        site.plan()
        assert site.upload().returncode == 0
        assert site.verify().returncode == 0
        forget(site)
        for name in list(os.environ):
            if name.startswith("AWS_") and name != "AWS_EC2_METADATA_DISABLED":
                monkeypatch.delenv(name)
        done = audit(site, "--no-sign-request", "--deep")
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        done = audit(site)
        assert (done.returncode, "no AWS credentials found" in done.stderr) == (0, True)
        back = site.command("-m", "lading", "restore", "--manifest", "m.zst", "--to", "back", "--no-sign-request")
        assert (back.returncode, len(list((site.directory / "back/a").iterdir()))) == (0, 5), back.stderr


def test_where_listing_is_forbidden_each_object_is_asked_for(site: Site, s3: Server) -> None:
    put(site, "dr1/run1/01.bin", b"short")
    site.client().delete_object(Bucket=site.bucket, Key="dr1/run0/00.bin")
    denied = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"

    def forbid(request: altered.Request) -> altered.Answer | None:
        return (403, [("Content-Type", "application/xml")], denied) if "list-type" in request.path else None

    with altered.serve(s3, instead=forbid) as proxy:
        done = audit(site, "--endpoint-url", proxy.endpoint)
    assert done.returncode == 4, done.stderr
    assert "each object was requested by HEAD; extra objects were not looked for" in done.stdout
    assert "error: missing: 1: dr1/run0/00.bin" in done.stderr
    assert "error: different: 1: dr1/run1/01.bin (5 bytes, recorded 2,001)" in done.stderr


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
def test_newer_versions_are_told_from_older_ones(gateway: Any, bucket: str, tmp_path: Path) -> None:
    gateway.make_bucket(bucket, versioned=True)
    s3 = labtree.client(gateway)
    rows = []
    for name in ("kept", "replaced", "same", "turned-back"):
        if name == "turned-back":
            s3.put_object(Bucket=bucket, Key=name, Body=b"older")
            time.sleep(1.1)  # servers tell times in seconds
        put = s3.put_object(Bucket=bucket, Key=name, Body=b"first")
        etag = put["ETag"].strip('"')
        moment = s3.head_object(Bucket=bucket, Key=name)["LastModified"].strftime("%Y-%m-%dT%H:%M:%SZ")
        rows.append(ManifestRow(name, name, 5, 7, etag, None, etag, put["VersionId"], "etag", "b", moment))
    s3.put_object(Bucket=bucket, Key="replaced", Body=b"newer")
    s3.put_object(Bucket=bucket, Key="same", Body=b"first")
    s3.delete_object(Bucket=bucket, Key="turned-back", VersionId=rows[3].version_id)
    header = ManifestHeader(bucket, "", gateway.endpoint, "/data", "0" * 64, WHEN, {})
    write_manifest(tmp_path / "m.zst", header, rows, complete=True)
    done = audit(Site(tmp_path, gateway.endpoint, bucket), "--json")
    assert done.returncode == 4, done.stderr
    assert "superseded: 2: replaced (same size, another ETag), same (by the same bytes)" in done.stderr
    assert "different: 1: turned-back (" in done.stderr
    found = json.loads(done.stdout)
    assert (found["objects"]["right"], found["superseded_by_same_bytes"]) == (1, 1)


def row(key: str, path: str, **more: Any) -> ManifestRow:
    return ManifestRow(path, key, 1, 0, "m", None, "m", more.get("version"), "etag", "b", WHEN)


def test_an_older_version_is_no_successor() -> None:
    recorded = row("k", "k", version="2")
    assert compare_listed(recorded, ObjectInfo("k", 1, "m", "2026-01-02T00:00:00Z", "3")).kind == "superseded"
    older = compare_listed(recorded, ObjectInfo("k", 1, "x", "2025-01-02T00:00:00Z", "1"))
    assert older == AuditFinding("different", "an older version is the current one; same size, another ETag")


@pytest.mark.parametrize(
    ("pairs", "roots"),
    [
        ([], ["p/"]),
        ([("dr1/a", "a"), ("dr1/b/c", "b/c")], ["dr1/"]),
        ([("a", "a")], [""]),
        ([("dr1/a", "a"), ("dr1/raw/x", "spectro/data/x")], ["dr1/"]),
        ([("dr1/a", "a"), ("raw/x/1", "spectro/data/x/1"), ("raw/y/2", "spectro/data/y/2")], ["dr1/", "raw/"]),
        ([("data/f/1", "x/data/f/1"), ("data/g/1", "x/data/g/1")], ["data/"]),
        ([("dr1/%FF", "\udcff")], ["dr1/"]),
        ([("dr1/renamed", "other")], ["dr1/"]),
    ],
)
def test_extra_objects_are_looked_for_below_the_roots_of_the_keys(
    pairs: list[tuple[str, str]], roots: list[str]
) -> None:
    assert key_roots((row(key, path) for key, path in pairs), "p/") == roots
