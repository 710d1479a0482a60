"""Objects as the bucket's owner wants them, by each engine, on servers that keep class, tags, metadata and keys."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lading.testing.ceph_gateway import Gateway
from lading.verification.manifest import read_manifest
from tests.conftest import REPOSITORY, mostly_long
from tests.servers import altered
from tests.servers.moto import ENVIRONMENT, Moto, serve
from tests.shipping import Site, make_site, write_files

WISHES = [
    *("--storage-class", "*.fits.fz=GLACIER_IR;STANDARD_IA"),
    *("--cache-control", "public, max-age=60"),
    *("--metadata", "Survey=desi,note=dr 1; a"),
    *("--content-type", "*.fits.fz=application/fits"),
    *("--sse", "aws:kms", "--sse-kms-key-id", "alias/mine"),
]
TAGS = ["--tags", "project=desi,of=dr 1"]


@pytest.fixture(scope="module")
def moto_server() -> Iterator[Moto]:
    with serve() as server:
        yield server


@pytest.fixture
def moto(moto_server: Moto, monkeypatch: pytest.MonkeyPatch) -> Moto:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return moto_server


@pytest.fixture
def site(tmp_path: Path, moto: Moto, bucket: str) -> Site:
    moto.make_bucket(bucket)
    site = Site(tmp_path, moto.endpoint, bucket)
    write_files(
        site.release, {b"a/%d.fits.fz" % n: 3000 + n for n in range(3)} | {b"a/%d.txt" % n: 50 for n in range(6)}
    )
    site.plan("--min-batch-size", "1G", "--max-batch-size", "1T")
    return site


def head(site: Site, key: str) -> dict[str, Any]:
    found: dict[str, Any] = site.client().head_object(Bucket=site.bucket, Key=key, ChecksumMode="ENABLED")
    tags = site.client().get_object_tagging(Bucket=site.bucket, Key=key).get("TagSet", [])
    return found | {"Tags": {tag["Key"]: tag["Value"] for tag in tags}}


@pytest.mark.parametrize("engine", mostly_long(["s5cmd", "boto3", "obstore", "crt"], "s5cmd", "boto3", "obstore"))
def test_each_engine_stores_what_was_asked_for(engine: str, site: Site) -> None:
    release = "dr1" if engine == "obstore" else "dr 1"  # boto3 sends a tag with a space
    flags = [*WISHES, *([] if engine == "s5cmd" else ["--tags", f"project=desi,of={release}"])]
    done = site.upload("--engine", engine, *flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "by the engine that was asked for"
    for key, kind, stored in (
        ("a/1.fits.fz", "application/fits", "GLACIER_IR"),
        ("a/1.txt", "text/plain", "STANDARD_IA"),
    ):
        found = head(site, f"dr1/{key}")
        assert (found["StorageClass"], found["ContentType"], found["CacheControl"]) == (
            stored,
            kind,
            "public, max-age=60",
        )
        assert found["Metadata"] == {"survey": "desi", "note": "dr 1; a"}
        assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", "alias/mine")
        assert "ContentEncoding" not in found
        assert found["Tags"] == ({} if engine == "s5cmd" else {"project": "desi", "of": release})
    done = site.verify()
    assert done.returncode == 0, done.stderr
    rows = {row.path: row for row in read_manifest(site.directory / "manifest.jsonl.zst").rows()}
    assert rows["a/1.fits.fz"].storage_class == "GLACIER_IR"
    assert rows["a/1.txt"].attributes == {
        "content_type": "text/plain",
        "cache_control": "public, max-age=60",
        "encryption": "aws:kms",
        "kms_key": "alias/mine",
        "metadata": {"survey": "desi", "note": "dr 1; a"},
        **({} if engine == "s5cmd" else {"tags": {"project": "desi", "of": release}}),
    }


@pytest.mark.parametrize("engine", ["s5cmd", "boto3", "obstore"])
def test_rclone_restores_the_attributes_of_files(engine: str, site: Site, tmp_path: Path) -> None:
    """As the real rclone does, to the nanosecond, before 1970 too."""
    times = {"a/1.fits.fz": 1_354_040_105_123_456_789, "a/2.fits.fz": -1_500_000_000, "a/1.txt": 1_600_000_000 * 10**9}
    for path, time_ns in times.items():
        os.utime(site.release / path, ns=(time_ns, time_ns))
    (site.release / "a/2.txt").chmod(0o640)
    (site.release / "a/3.txt").chmod(0o400)
    done = site.upload("--engine", engine, "--object-metadata", "rclone", "--metadata", "survey=desi")
    assert done.returncode == 0, done.stderr
    status = (site.release / "a/1.fits.fz").stat()
    assert head(site, "dr1/a/1.fits.fz")["Metadata"] == {
        "survey": "desi",
        "mtime": "1354040105.123456789",
        "mode": f"{status.st_mode:o}",
        "uid": str(status.st_uid),
        "gid": str(status.st_gid),
    }
    back = tmp_path / "back"
    remote = f":s3,provider=Other,env_auth=true,endpoint='{site.endpoint}':{site.bucket}/dr1"
    command = [
        str(Path(sys.executable).parent / "rclone"),
        "--config",
        os.devnull,
        "copy",
        "--metadata",
        remote,
        str(back),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for path in site.release.rglob("*.*"):
        was, now = path.stat(), (back / path.relative_to(site.release)).stat()
        assert (now.st_mode, now.st_uid, now.st_gid, now.st_mtime_ns) == (
            was.st_mode,
            was.st_uid,
            was.st_gid,
            was.st_mtime_ns,
        ), path
    assert site.verify().returncode == 0


def test_a_form_that_is_none_and_names_that_clash_are_refused_together(site: Site) -> None:
    done = site.upload("--object-metadata", "rsync", "--tags", "k" * 129 + "=v")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2), done.stderr
    assert "object_metadata: 'rsync' is not a form; the one there is: rclone" in done.stderr
    done = site.upload("--object-metadata", "rclone", "--metadata", f"Mode=600,uid=0,long={'x' * 2000}")
    assert done.returncode == 2
    assert "metadata: mode, uid is what object_metadata=rclone sets; leave out one of the two" in done.stderr
    assert "with the 64 bytes of object_metadata=rclone an object has 2,079 bytes" in done.stderr
    assert not site.listing()


def test_an_engine_that_cannot_is_refused_or_another_is_taken_and_named(site: Site) -> None:
    for flags, lacks in ((TAGS, "--tags"), (["--checksum-algorithm", "SHA256"], "--checksum-algorithm=SHA256")):
        done = site.upload("--engine", "s5cmd", *flags)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert f"s5cmd cannot send {lacks}; say --engine=crt" in done.stderr
    assert not site.listing()
    done = site.upload("--tags", '{"*.fits.fz": {"tier": "cold"}}')
    assert done.returncode == 0, done.stderr
    assert "s5cmd cannot send every file, so crt sends the others (s5cmd cannot send tags)" in done.stderr
    assert (head(site, "dr1/a/1.fits.fz")["Tags"], head(site, "dr1/a/1.txt")["Tags"]) == ({"tier": "cold"}, {})


def test_all_errors_come_at_once_and_nothing_is_sent(site: Site) -> None:
    bad = ["--storage-class", "*.fits=GLACIER;GLACIR", "--tags", "k" * 129 + "=v", "--sse", "AES128"]
    done = site.upload(*bad, "--content-type", "*.nothing=text/plain")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 5, lines
    for said in (
        "'GLACIR' is not a class",
        "has 129 characters",
        "'AES128' is not an encryption",
        "'*.fits' takes no file",
        "'*.nothing'",
    ):
        assert sum(said in line for line in lines) == 1, (said, lines)
    assert not (site.directory / "journal").exists()


def test_a_changed_setting_sends_nothing_again(site: Site) -> None:
    assert site.upload("--storage-class", "STANDARD_IA").returncode == 0
    before = {key: head(site, key)["LastModified"] for key in site.listing()}
    write_files(site.release, {b"a/new.txt": 77})
    site.plan("--min-batch-size", "1G", "--max-batch-size", "1T")
    done = site.upload("--storage-class", "GLACIER_IR")
    assert done.returncode == 0, done.stderr
    assert "note: storage_class changed since an earlier run; 9 objects that are verified keep" in done.stderr
    assert site.runs()[-1]["objects"]["sent"] == 1
    assert head(site, "dr1/a/new.txt")["StorageClass"] == "GLACIER_IR"
    assert before == {key: head(site, key)["LastModified"] for key in before}
    journals = (site.directory / "journal").glob("*.jsonl")
    headers = [json.loads(path.read_text().splitlines()[0]) for path in journals]
    assert {json.dumps(header["objects"]) for header in headers} == {
        '{"storage_class": {"*": "STANDARD_IA"}}',
        '{"storage_class": {"*": "GLACIER_IR"}}',
    }


@pytest.mark.long
def test_a_checksum_goes_with_each_object_and_each_part(site: Site) -> None:
    write_files(site.release, {b"a/big.bin": (50 << 20) + 5})
    site.plan("--min-batch-size", "1G", "--max-batch-size", "1T")
    for number, name in enumerate(("SHA256", "CRC64NVME", "CRC32", "SHA1", "CRC32C")):
        if number:
            (site.directory / "journal").rename(site.directory / f"journal-{number}")
            for key in site.listing():
                site.client().delete_object(Bucket=site.bucket, Key=key)
        with altered.serve(Moto(site.endpoint)) as proxy:
            there, site.endpoint = site.endpoint, proxy.endpoint
            done = site.upload("--engine", "boto3", "--checksum-algorithm", name, "--resume-size", "40M")
            site.endpoint = there
        assert done.returncode == 0, done.stderr
        header = f"x-amz-checksum-{name.lower()}"
        sent = [one for one in proxy.requests if one.method == "PUT" and "canary" not in one.path]
        assert len(sent) == 9 + 2
        assert all(one.headers.get(header) for one in sent)
        assert site.runs()[-1]["retries"] == 0


@pytest.mark.long
def test_who_pays_is_in_each_request(site: Site) -> None:
    with altered.serve(Moto(site.endpoint)) as proxy:
        site.endpoint = proxy.endpoint
        for number, engine in enumerate(("s5cmd", "obstore", "crt")):
            if number:
                (site.directory / "journal").rename(site.directory / f"journal-{number}")
                (site.release / "a" / "1.txt").write_text(f"another by {engine}")
                site.plan("--min-batch-size", "1G", "--max-batch-size", "1T")
            assert site.upload("--engine", engine, "--request-payer").returncode == 0
        assert site.verify("--request-payer").returncode == 0
    asked = {one.headers.get("x-amz-request-payer") for one in proxy.requests}
    assert asked == {"requester"}


def test_an_estimate_prices_each_class(site: Site) -> None:
    command = [str(REPOSITORY / "batch.py"), "--estimate", str(site.release)]
    told = site.command(*command)
    assert told.returncode == 0, told.stderr
    assert "storage classes (Amazon S3, us-east-1, USD, as listed in 2025" in told.stdout
    assert "cheapest in the first year, by readings of everything: STANDARD" in told.stdout
    found = json.loads(site.command(*command, "--json").stdout)
    assert {one["name"] for one in found["classes"]} >= {"STANDARD", "GLACIER_IR", "DEEP_ARCHIVE"}
    cheap = site.command(
        *command, "--json", "--class-prices", '{"DEEP_ARCHIVE": {"put": 0, "storage": 0, "beside_standard": 0}}'
    )
    assert json.loads(cheap.stdout)["cheapest"][0]["class"] == "DEEP_ARCHIVE"
    wrong = site.command(*command, "--class-prices", '{"COLD": {}}')
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
@pytest.mark.parametrize("engine", ["s5cmd", "boto3", "obstore", "crt"])
def test_the_ceph_gateway_keeps_tags_metadata_and_types(
    engine: str, tmp_path: Path, gateway: Gateway, bucket: str
) -> None:
    site = make_site(tmp_path, gateway, bucket)
    write_files(site.release, {b"a/%d.fits" % n: 3000 + n for n in range(3)} | {b"a/big.fits": (50 << 20) + 7})
    site.plan("--min-batch-size", "1G", "--max-batch-size", "1T")
    flags = ["--metadata", "survey=desi", "--cache-control", "no-cache", "--content-type", "*.fits=application/fits"]
    done = site.upload(
        "--engine",
        engine,
        *flags,
        *([] if engine == "s5cmd" else ["--tags", "project=desi,of=dr 1"]),
        "--storage-class",
        "STANDARD",
    )
    assert done.returncode == 0, done.stderr
    for key in site.listing():
        found = head(site, key)
        assert (found["ContentType"], found["CacheControl"]) == ("application/fits", "no-cache")
        assert found["Metadata"] == {"survey": "desi"}
        # This gateway (16.2) keeps no tags of an object sent in parts, by whichever client.
        whole = engine != "s5cmd" and not key.endswith("big.fits")
        assert found["Tags"] == ({"project": "desi", "of": "dr 1"} if whole else {})
    assert site.verify().returncode == 0
    rows = list(read_manifest(site.directory / "manifest.jsonl.zst").rows())
    assert {json.dumps(row.attributes["metadata"]) for row in rows if row.attributes} == {'{"survey": "desi"}'}
