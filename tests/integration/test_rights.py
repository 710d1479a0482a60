"""Buckets that deny one action: what works all the same, and the server's own words where nothing does.

A second user of a real Ceph gateway has all rights but one. The table that comes out is in
docs/reference/bucket-rights.md.
"""

import json
import os
from dataclasses import dataclass

import pytest

from lading.testing import ceph_gateway
from lading.verification.manifest import read_manifest
from tests.conftest import REPOSITORY
from tests.shipping import Site, make_site, walk, write_files

KEYS = {"AWS_ACCESS_KEY_ID": "limitedaccess", "AWS_SECRET_ACCESS_KEY": "limitedsecret"}
LARGE = 51 << 20  # two parts
STAGES = ("upload", "verify", "restore")


@dataclass(frozen=True)
class Case:
    """One denied action: the exit codes of upload, verify and restore, and what each must say."""

    action: str
    versioned: bool
    upload: int
    verify: int
    restore: int
    said: dict[str, str]


CASES = [
    Case("s3:ListBucket", False, 1, 1, 0, {"upload": "s3:ListBucket", "verify": "s3:ListBucket"}),
    Case("s3:PutObject", False, 1, 0, 0, {"upload": "s3:PutObject"}),
    Case("s3:GetObject", False, 0, 0, 1, {"restore": "s3:GetObject"}),
    Case("s3:DeleteObject", False, 0, 0, 0, {"upload": "so it stays"}),
    Case("s3:ListBucketMultipartUploads", False, 0, 0, 0, {"upload": "unfinished multipart uploads of earlier runs"}),
    Case("s3:AbortMultipartUpload", False, 0, 0, 0, {}),
    Case("s3:ListMultipartUploadParts", False, 0, 0, 0, {}),
    Case("s3:GetBucketVersioning", True, 0, 0, 0, {}),
    Case("s3:ListBucketVersions", True, 0, 0, 0, {"verify": "versions"}),
    Case("s3:GetObjectVersion", True, 0, 0, 0, {"restore": "version"}),
    Case("s3:DeleteObjectVersion", True, 0, 0, 0, {"upload": "version"}),
]


@pytest.fixture(scope="module")
def limited(rgw_server: ceph_gateway.Gateway) -> ceph_gateway.Gateway:
    rgw_server.admin(
        "user", "create", "--uid=limited", "--display-name=limited",
        f"--access-key={KEYS['AWS_ACCESS_KEY_ID']}", f"--secret-key={KEYS['AWS_SECRET_ACCESS_KEY']}",
    )  # fmt: skip
    return rgw_server


def set_policy(site: Site, server: ceph_gateway.Gateway, *denied: str) -> None:
    """Give the second user all rights on the bucket but those."""
    who = {"AWS": ["arn:aws:iam:::user/limited"]}
    where = [f"arn:aws:s3:::{site.bucket}", f"arn:aws:s3:::{site.bucket}/*"]
    rules = [{"Effect": "Allow", "Principal": who, "Action": ["s3:*"], "Resource": where}]
    if denied:
        rules.append({"Effect": "Deny", "Principal": who, "Action": list(denied), "Resource": where})
    policy = json.dumps({"Version": "2012-10-17", "Statement": rules})
    server.client().put_bucket_policy(Bucket=site.bucket, Policy=policy)


def restore(site: Site, to: str, environment: dict[str, str], *flags: str):  # type: ignore[no-untyped-def]
    more = ["--to", str(site.directory / to), "--manifest", str(site.directory / "manifest.jsonl.zst")]
    command = ["-m", "lading", "restore", "--prefix", ".", *more, *flags, "--endpoint-url", site.endpoint]
    return site.command(*command, env=environment)


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.action.partition(":")[2])
def test_one_right_less(case: Case, limited, gateway, bucket: str, tmp_path) -> None:
    site = make_site(tmp_path, gateway, bucket)
    if case.versioned:
        gateway.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    write_files(site.release, {**{b"d/%d" % number: 3000 + number for number in range(12)}, b"large": LARGE})
    site.plan("--min-batch-size", "20k", "--max-batch-size", "100M")
    set_policy(site, gateway, case.action)
    environment = {**os.environ, **KEYS}
    done = {"upload": site.upload(env=environment)}
    assert done["upload"].returncode == case.upload, done["upload"].stderr
    if case.upload == 0:  # again with something new, so that what a run leaves behind adds up where it does
        for number in range(2):
            write_files(site.release, {b"more-%d" % number: 500})
            site.plan("--min-batch-size", "20k", "--max-batch-size", "100M")
            again = site.upload(env=environment)
            assert again.returncode == 0, again.stderr
        probes = [key for key in site.listing() if ".lading-canary-" in key]
        assert len(probes) == (1 if case.action == "s3:DeleteObject" else 0)
    else:
        done_by_all = site.upload()
        assert done_by_all.returncode == 0, done_by_all.stderr
    done["verify"] = site.verify(env=environment)
    assert done["verify"].returncode == case.verify, done["verify"].stderr
    if case.verify:
        assert site.verify().returncode == 0
    rows = list(read_manifest(site.directory / "manifest.jsonl.zst").rows())
    assert len(rows) == len(site.listing()) - (1 if case.action == "s3:DeleteObject" else 0)
    done["restore"] = restore(site, "back", environment)
    assert done["restore"].returncode == case.restore, done["restore"].stderr
    for stage, words in case.said.items():
        assert words in done[stage].stderr, done[stage].stderr
    for result in done.values():
        assert "Traceback" not in result.stderr
    print(f"| `{case.action}` | {' | '.join('refused' if done[stage].returncode else 'works' for stage in STAGES)} |")
    if case.versioned and case.action != "s3:DeleteObjectVersion":
        versions = gateway.client().list_object_versions(Bucket=bucket)
        left = [v["Key"] for v in versions.get("Versions", []) + versions.get("DeleteMarkers", [])]
        assert not [key for key in left if ".lading-canary-" in key], "the probe leaves no versions behind"


def test_the_table_says_what_was_seen() -> None:
    """Each line of bucket-rights.md begins its cells as the test of that right found them; `pytest -s` prints them."""
    text = (REPOSITORY / "docs" / "reference" / "bucket-rights.md").read_text()
    told = {
        cells[1].strip(" `"): [cell.split()[0].rstrip(";:") for cell in cells[2:5]]
        for line in text.splitlines()
        if line.startswith("| `s3:") and (cells := line.split("|"))
    }
    seen = {case.action: ["refused" if getattr(case, stage) else "works" for stage in STAGES] for case in CASES}
    assert told == seen


def allow_all_to_read(site: Site, server: ceph_gateway.Gateway) -> None:
    where = [f"arn:aws:s3:::{site.bucket}", f"arn:aws:s3:::{site.bucket}/*"]
    rule = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": where}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
    server.client().put_bucket_policy(Bucket=site.bucket, Policy=policy)


def without_credentials() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
@pytest.mark.parametrize("versioned", [False, True])
def test_a_public_bucket_is_read_without_credentials(versioned: bool, gateway, bucket: str, tmp_path) -> None:
    site = make_site(tmp_path, gateway, bucket)
    if versioned:
        gateway.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    write_files(site.release, {**{b"d/%d" % number: 3000 + number for number in range(12)}, b"large": LARGE})
    site.plan("--min-batch-size", "20k", "--max-batch-size", "100M")
    for done in (site.upload(), site.verify()):
        assert done.returncode == 0, done.stderr
    bare = without_credentials()
    refused = restore(site, "refused", bare)
    assert refused.returncode == 1, "nobody else may read it yet"
    assert "no AWS credentials found; set AWS_PROFILE" in refused.stderr
    assert "Traceback" not in refused.stderr
    allow_all_to_read(site, gateway)
    for number, more in enumerate(((), ("--no-sign-request",))):
        done = restore(site, f"back-{number}", bare if not more else {**os.environ, **KEYS, **bare}, *more)
        assert done.returncode == 0, done.stderr
        assert walk(site.directory / f"back-{number}") == walk(site.release)
        assert ("no AWS credentials found, so requests are not signed" in done.stderr) is (not more)
    done = site.verify("--full", "-o", str(tmp_path / "again.zst"), env=bare)
    assert done.returncode == 0, done.stderr
    assert len(list(read_manifest(tmp_path / "again.zst").rows())) == 13


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
@pytest.mark.parametrize("engine", ["s5cmd", "boto3", "obstore", "crt"])
def test_a_policy_that_demands_an_acl_is_met(engine: str, limited, gateway, bucket: str, tmp_path) -> None:
    site = make_site(tmp_path, gateway, bucket)
    write_files(site.release, {**{b"d/%d" % number: 3000 + number for number in range(12)}, b"large": LARGE})
    site.plan("--min-batch-size", "20k", "--max-batch-size", "100M")
    who = {"AWS": ["arn:aws:iam:::user/limited"]}
    where = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    full = {"StringNotEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}}
    rules = [
        {"Effect": "Allow", "Principal": who, "Action": ["s3:*"], "Resource": where},
        {"Effect": "Deny", "Principal": who, "Action": ["s3:PutObject"], "Resource": where[1:], "Condition": full},
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": rules})
    gateway.client().put_bucket_policy(Bucket=bucket, Policy=policy)
    environment = {**os.environ, **KEYS}
    refused = site.upload("--engine", engine, env=environment)
    assert refused.returncode == 1
    assert "PutObject" in refused.stderr
    done = site.upload("--engine", engine, "--acl", "bucket-owner-full-control", env=environment)
    assert done.returncode == 0, done.stderr
    assert ("obstore cannot send --acl" in done.stderr) is (engine == "obstore")
    assert site.runs()[-1]["retries"] == 0
    assert {key: size for key, (size, _) in site.listing().items()} == {
        f"dr1/{path}": size for path, (size, _) in walk(site.release).items()
    }


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
@pytest.mark.parametrize("engine", ["s5cmd", "boto3", "obstore", "crt"])
def test_object_lock_takes_what_each_engine_sends(engine: str, gateway, bucket: str, tmp_path) -> None:
    gateway.client().create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    gateway.client().put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    site = Site(tmp_path, gateway.endpoint, bucket)
    write_files(site.release, {**{b"d/%d" % number: 3000 + number for number in range(12)}, b"large": LARGE})
    site.plan("--min-batch-size", "20k", "--max-batch-size", "100M")
    done = site.upload("--engine", engine)
    assert done.returncode == 0, done.stderr
    assert site.runs()[-1]["retries"] == 0, "by the engine that was asked for"
    done = site.verify()
    assert done.returncode == 0, done.stderr
