"""``lading withdraw``: exactly the named objects go, where they are the verified ones; killed, it goes on."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lading.testing.ceph_gateway import Gateway
from lading.testing.s3_server import Server
from lading.verification.manifest import read_manifest
from tests.servers import altered
from tests.shipping import Site, make_site, write_files

NAMED = [f"run{n}/{n:03}.bin" for n in range(10)]
REASON = "the subject took back consent"


def make_release(site: Site, files: int) -> Site:
    write_files(site.release, {b"run%d/%03d.bin" % (n % 10, n): 100 + n for n in range(files)})
    site.plan("--min-batch-size", "1G", "--max-batch-size", "1T")
    assert site.upload().returncode == 0
    assert site.verify().returncode == 0
    return site


@pytest.fixture
def site(tmp_path: Path, s3: Server, bucket: str) -> Site:
    return make_release(make_site(tmp_path, s3, bucket), 40)


def command(site: Site, names: list[str], *flags: str) -> list[str]:
    (site.directory / "list").write_text("".join(f"{name}\n" for name in names))
    where = ["--endpoint-url", site.endpoint, "--max-workers", "1"]
    return [sys.executable, "-m", "lading", "withdraw", "list", "--reason", REASON, *where, *flags]


def withdraw(site: Site, names: list[str], *flags: str) -> "subprocess.CompletedProcess[str]":
    return site.command(*command(site, names, *flags)[1:])


def manifest_verify(site: Site) -> "subprocess.CompletedProcess[str]":
    flags = ["--manifest", "manifest.jsonl.zst", "--endpoint-url", site.endpoint]
    return site.command("-m", "lading", "verify", *flags)


class Killer:
    """A proxy's function that kills a process when so many objects were deleted."""

    def __init__(self, deletions: int) -> None:
        self.deletions, self.seen = deletions, 0
        self.process: subprocess.Popen[bytes] | None = None

    def after(self, request: altered.Request, answer: altered.Answer) -> altered.Answer:
        if request.method == "DELETE" and self.process is not None:
            self.seen += 1
            if self.seen == self.deletions:
                self.process.kill()
        return answer

    def run(self, site: Site, names: list[str]) -> None:
        with open(site.directory / "log", "wb") as log:
            line = command(site, names)
            self.process = subprocess.Popen(line, cwd=site.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            assert self.process.wait(60) == -signal.SIGKILL, (site.directory / "log").read_text()
            self.process = None


def check_gone(site: Site, files: int) -> None:
    keys = {f"dr1/{name}" for name in NAMED}
    assert not keys & site.listing().keys()
    assert len(site.listing()) == files - 10
    done = site.verify()
    assert done.returncode == 0, done.stderr
    assert "note: 10 objects were withdrawn, and are not in the bucket" in done.stdout
    manifest = read_manifest(site.directory / "manifest.jsonl.zst")
    assert (manifest.end.objects, manifest.end.withdrawn, manifest.end.complete) == (files - 10, 10, True)
    gone = list(manifest.withdrawn())
    assert [item.path for item in gone] == sorted(NAMED)
    assert {item.reason for item in gone} == {REASON}
    assert all(item.sha256 and item.etag and item.withdrawn_at for item in gone)
    done = site.upload()
    assert (done.returncode, "nothing to send" in done.stdout) == (0, True), done.stdout
    assert manifest_verify(site).returncode == 0


@pytest.mark.long
def test_killed_it_goes_on_and_what_somebody_changed_is_refused(tmp_path: Path, s3: Server, bucket: str) -> None:
    s3.make_bucket(bucket)
    killer = Killer(5)
    with altered.serve(s3, after=killer.after) as proxy:
        site = make_release(Site(tmp_path, proxy.endpoint, bucket), 40)
        killer.run(site, NAMED)
        go_on(site)


def go_on(site: Site) -> None:
    done = site.verify()
    assert done.returncode == 3, done.stderr
    assert "a withdrawal was not finished" in done.stderr
    client = site.client()
    client.put_object(Bucket=site.bucket, Key=f"dr1/{NAMED[8]}", Body=b"by somebody else")
    done = withdraw(site, NAMED)
    assert done.returncode == 4, (done.stdout, done.stderr)
    assert f"refused: {NAMED[8]}: somebody changed it: 16 bytes" in done.stderr
    assert "were deleted by a run that was killed" in done.stdout
    listed = site.listing()
    assert listed[f"dr1/{NAMED[8]}"][0] == 16, "it stays"
    assert len(listed) == 31
    assert site.verify().returncode == 4, "and verify tells it"
    client.put_object(Bucket=site.bucket, Key=f"dr1/{NAMED[8]}", Body=(site.release / NAMED[8]).read_bytes())
    assert site.verify().returncode == 0
    done = withdraw(site, NAMED)
    assert done.returncode == 0, done.stderr
    assert "1 object deleted" in done.stdout
    assert "9 were withdrawn before" in done.stdout
    check_gone(site, 40)
    done = withdraw(site, NAMED)
    assert (done.returncode, "10 were withdrawn before" in done.stdout) == (0, True), done.stdout


@pytest.mark.long
def test_what_comes_back_is_told_and_can_be_withdrawn_again(site: Site) -> None:
    assert withdraw(site, NAMED).returncode == 0
    assert manifest_verify(site).returncode == 0
    key = f"dr1/{NAMED[3]}"
    site.client().put_object(Bucket=site.bucket, Key=key, Body=(site.root / key).read_bytes())
    done = site.verify()
    assert done.returncode == 4, done.stderr
    assert f"withdrawn, and in the bucket again: 1: {key}" in done.stderr
    alone = manifest_verify(site)
    assert (alone.returncode, f"{key} (withdrawn, and there again)" in alone.stderr) == (4, True), alone.stderr
    done = withdraw(site, [NAMED[3]])
    assert (done.returncode, "1 object deleted" in done.stdout) == (0, True), done.stderr
    check_gone(site, 40)


@pytest.mark.long
def test_a_corrected_file_is_sent_and_a_removed_one_stays_withdrawn(site: Site) -> None:
    assert withdraw(site, NAMED).returncode == 0
    (site.release / NAMED[0]).write_text("the corrected file")
    (site.release / NAMED[1]).unlink()
    site.plan("--min-batch-size", "1G", "--max-batch-size", "1T")
    assert site.upload().returncode == 0
    assert site.runs()[-1]["objects"]["sent"] == 1
    done = site.verify()
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(site.directory / "manifest.jsonl.zst")
    assert [item.path for item in manifest.withdrawn()] == sorted(NAMED[1:])
    assert f"dr1/{NAMED[0]}" in site.listing()


def test_what_cannot_be_is_refused_before_anything_is_deleted(site: Site) -> None:
    before = site.listing()
    done = withdraw(site, [*NAMED, "run0", "nothing", "x\x1b[31m"])
    assert done.returncode == 2
    assert done.stderr.count("is neither a path nor a key of") == 3
    assert "\x1b" not in done.stderr
    done = site.command("-m", "lading", "withdraw", "list", "--reason", " ")
    assert (done.returncode, "--reason" in done.stderr) == (2, True)
    (site.directory / "empty").write_text("\n")
    assert site.command("-m", "lading", "withdraw", "empty", "--reason", "r").returncode == 2
    client = site.client()
    client.delete_object(Bucket=site.bucket, Key=f"dr1/{NAMED[2]}")
    done = withdraw(site, [NAMED[2], f"dr1/{NAMED[4]}"], "--dry-run")
    assert done.returncode == 0
    assert f"would delete  dr1/{NAMED[4]}" in done.stdout
    assert f"refused  dr1/{NAMED[2]}  the bucket does not list it" in done.stdout
    assert site.listing().keys() == before.keys() - {f"dr1/{NAMED[2]}"}
    done = withdraw(site, [NAMED[2], f"dr1/{NAMED[4]}"], "--json")
    assert done.returncode == 4
    found = json.loads(done.stdout)
    assert (found["deleted"], found["refused"][0][0]) == (1, NAMED[2])


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
def test_of_a_thousand_with_versions_delete_markers_hide_ten(tmp_path: Path, gateway: Gateway, bucket: str) -> None:
    gateway.make_bucket(bucket, versioned=True)
    killer = Killer(4)
    with altered.serve(gateway, after=killer.after) as proxy:
        site = make_release(Site(tmp_path, proxy.endpoint, bucket), 1000)
        killer.run(site, NAMED)
        done = withdraw(site, NAMED)
        assert done.returncode == 0, done.stderr
        check_gone(site, 1000)
    site.endpoint = gateway.endpoint
    versions = site.client().list_object_versions(Bucket=bucket, Prefix=f"dr1/{NAMED[5]}")
    assert len(versions["DeleteMarkers"]) == 1
    assert len(versions["Versions"]) == 1, "what was verified is kept below the marker"
