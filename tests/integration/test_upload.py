"""Upload and verify on a real S3 server: what is promised, and what a person can get wrong."""

import itertools
import json
import os
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lading.core.identity import owner_tag
from lading.objectstore.bucket_probe import BucketProbe
from lading.objectstore.capacity import OBJECT_BYTES, find_capacity
from lading.objectstore.client import ObjectStore
from lading.objectstore.target import Target
from lading.testing.ceph_gateway import Gateway
from lading.testing.s3_server import Server
from lading.verification.manifest import read_manifest
from tests.conftest import ODD_NAMES, REPOSITORY
from tests.shipping import Site, make_site, walk, write_files

COUNTS = re.compile(r"batches at (\w+): (\d+) listed, (\d+) completed, (\d+) queued, (\d+) failed")


@pytest.fixture
def site(tmp_path: Path, s3: Server, bucket: str) -> Site:
    """A release of some 60 files in several batches."""
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, {b"spectro/data/%03d.fits" % i: 4000 + i for i in range(40)})
    write_files(site.release, {b"tiles/%d/%d" % (i % 5, i): 9000 for i in range(20)})
    write_files(site.release, {b"empty": 0, b"lat\xe9in": 11, b"quote'd $HOME": 12})
    return site


def at_end(output: str) -> tuple[int, ...]:
    return next(tuple(map(int, match.groups()[1:])) for match in COUNTS.finditer(output) if match[1] == "end")


def test_everything_arrives_and_a_second_run_sends_nothing(site: Site) -> None:
    site.plan()
    done = site.upload()
    assert done.returncode == 0, done.stderr
    expected = {f"dr1/{path}": found for path, found in walk(site.release).items()}
    expected["dr1/lat%E9in"] = expected.pop("dr1/lat\udce9in")
    assert site.listing() == expected
    again = site.upload()
    assert again.returncode == 0
    assert f"nothing to send: all {len(expected)} objects are verified" in again.stdout
    assert site.runs()[-1]["objects"]["sent"] == 0
    checked = site.verify()
    assert checked.returncode == 0, checked.stderr
    manifest = read_manifest(site.directory / "manifest.jsonl.zst")
    assert manifest.end.complete
    rows = {row.key: (row.size, row.md5) for row in manifest.rows()}
    assert rows == expected
    odd = next(row for row in manifest.rows() if row.key == "dr1/lat%E9in")
    assert odd.path == "lat\udce9in"


def test_two_batches_at_a_time_until_done(site: Site) -> None:
    site.plan("--min-batch-size", "20k", "--max-batch-size", "40k")
    queued = []
    for _ in range(20):
        done = site.upload("--max-batches", "2")
        assert done.returncode == 0, done.stderr
        if "nothing to send" in done.stdout:
            break
        queued.append(at_end(done.stdout)[2])
    assert len(queued) > 2
    assert all(before - after == 2 for before, after in itertools.pairwise(queued[:-1])), queued
    assert queued[-1] == 0


def test_one_deleted_object_is_named_and_sent_alone(site: Site) -> None:
    site.plan()
    assert site.upload().returncode == 0
    site.client().delete_object(Bucket=site.bucket, Key="dr1/spectro/data/007.fits")
    lost = site.verify()
    assert lost.returncode == 4
    assert "dr1/spectro/data/007.fits" in lost.stderr
    assert not read_manifest(site.directory / "manifest.jsonl.zst").end.complete
    assert site.upload().returncode == 0
    assert site.runs()[-1]["objects"]["sent"] == 1
    assert site.verify().returncode == 0


def test_other_bytes_of_the_same_size_are_found_and_replaced(site: Site) -> None:
    site.plan()
    assert site.upload().returncode == 0
    key = "dr1/spectro/data/008.fits"
    size, etag = site.listing()[key]
    site.client().put_object(Bucket=site.bucket, Key=key, Body=b"x" * size)
    differing = site.verify()
    assert differing.returncode == 4
    assert key in differing.stderr
    assert site.upload().returncode == 0
    assert site.listing()[key] == (size, etag)
    assert site.verify("--full").returncode == 0


@pytest.mark.long
def test_killed_in_the_middle_nothing_proven_is_sent_twice(site: Site) -> None:
    # Proofs come every few seconds; the server takes some 200 objects a second: the first proofs are never the whole.
    write_files(site.release, {b"many/%04d" % i: 500 for i in range(1500)})
    site.plan("--min-batch-size", "20k", "--max-batch-size", "100k")
    process = subprocess.Popen(
        site.upload_command(), cwd=site.directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    journal = site.directory / "journal"
    deadline = time.monotonic() + 60
    while not any(b'"done"' in path.read_bytes() for path in journal.glob("*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = b"".join(path.read_bytes() for path in journal.glob("*.jsonl")).splitlines()
    proven = {json.loads(line)["key"] for line in lines if b'"kind":"done"' in line and line.endswith(b"}")}
    assert 0 < len(proven) < 1563
    before = {key: site.client().head_object(Bucket=site.bucket, Key=key)["LastModified"] for key in list(proven)[:50]}
    done = site.upload()
    assert done.returncode == 0, done.stderr
    objects = site.runs()[-1]["objects"]
    assert objects["proven"] == 1563 - len(proven)
    after = {key: site.client().head_object(Bucket=site.bucket, Key=key)["LastModified"] for key in before}
    assert after == before
    assert site.verify().returncode == 0
    assert len(site.listing()) == 1563


def test_lost_journal_costs_no_upload(site: Site) -> None:
    site.plan()
    assert site.upload().returncode == 0
    for path in (site.directory / "journal").glob("*.*"):
        path.unlink()
    assert site.upload().returncode == 0
    objects = site.runs()[-1]["objects"]
    assert (objects["sent"], objects["adopted"]) == (0, 63)


def test_changed_release_sends_only_what_changed(site: Site) -> None:
    site.plan(find=("--mtime",))
    assert site.upload().returncode == 0
    write_files(site.release, {b"spectro/data/003.fits": 4003, b"fresh": 5}, seed=2)
    os.utime(site.release / "empty", (1, 1))
    site.plan(find=("--mtime",))
    assert site.upload().returncode == 0
    objects = site.runs()[-1]["objects"]
    assert (objects["sent"], objects["adopted"]) == (2, 1)
    assert site.verify().returncode == 0


def test_remap_and_prefix(site: Site) -> None:
    site.prefix, site.remap = "some/where", '{"spectro/data": "raw_spectro_data"}'
    write_files(site.root, {b"dr10/x": 5})
    site.plan()
    assert site.upload().returncode == 0
    keys = site.listing()
    assert "some/where/raw_spectro_data/007.fits" in keys
    assert not [key for key in keys if "spectro/data/" in key.replace("raw_spectro_data", "") or "dr10" in key]
    assert site.verify().returncode == 0


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
def test_odd_names(tmp_path: Path, gateway: Gateway, bucket: str) -> None:
    """On the gateway: rclone shows control characters as other signs."""
    site = make_site(tmp_path, gateway, bucket)
    write_files(site.release, {name: 10 + i for i, name in enumerate(ODD_NAMES)})
    site.plan()
    done = site.upload()
    assert done.returncode == 0, done.stderr
    assert site.verify("--full").returncode == 0
    assert len(site.listing()) == len(ODD_NAMES)


def test_two_sources_on_one_key_send_nothing(site: Site) -> None:
    write_files(site.release, {b"lat%E9in": 1})
    site.plan()
    done = site.upload()
    assert done.returncode == 2
    assert "would have the same key" in done.stderr
    assert site.listing() == {}


def test_a_file_larger_than_an_object_does_not_stop_the_rest(site: Site) -> None:
    with open(site.release / "huge", "wb") as stream:
        stream.truncate(OBJECT_BYTES + 1)
    site.plan()
    rest = sum(1 for path in site.release.rglob("*") if path.is_file()) - 1
    done = site.upload("--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"not sent: huge: it has {OBJECT_BYTES + 1:,} bytes" in done.stderr
    for _ in range(2):
        done = site.upload()
        assert done.returncode == 3, done.stderr
        assert "this server is assumed to store at most 5,497,558,138,880 in one object" in done.stderr
        assert len(site.listing()) == rest
    done = site.verify()
    assert done.returncode == 3, done.stderr
    assert "1 object was never sent" in done.stderr


def test_what_a_server_holds() -> None:
    aws, other = find_capacity(None), find_capacity("https://s3.example.org")
    assert find_capacity("https://s3.eu-west-1.amazonaws.com") == aws
    assert aws.object_fault(6 * 10**12) is None
    assert "6,000,000,000,000 bytes" in (other.object_fault(6 * 10**12) or "")
    assert find_capacity("https://s3.example.org", 50 * 10**12).object_fault(6 * 10**12) is None
    assert find_capacity("https://notamazonaws.com").object_bytes == OBJECT_BYTES


def test_the_length_of_keys_is_the_servers(site: Site) -> None:
    write_files(site.release, {b"d/" + b"x" * 200: 10})
    site.plan()
    done = site.upload("--max-key-bytes", "100")
    assert done.returncode == 2
    assert "the server accepts 100; if it accepts more: --max-key-bytes" in done.stderr


def test_canaries_of_others_stay_and_are_not_planned(site: Site) -> None:
    """What only has the name of a canary is someone's data; a file of the name would be deleted after its proof."""
    canary = BucketProbe(ObjectStore(Target(site.bucket, site.endpoint)), "")
    gone, theirs = (f"{canary._family}{owner_tag().split('-')[0]}-{pid}-0-1" for pid in (999999998, 999999999))
    client = site.client()
    client.put_object(Bucket=site.bucket, Key=gone, Body=BucketProbe.BODY)
    client.put_object(Bucket=site.bucket, Key=theirs, Body=b"theirs")
    canary.run()
    assert set(site.listing()) == {theirs}
    name = gone.encode()
    write_files(site.release, {b"d/" + name: 6})
    site.plan()
    done = site.upload()
    assert done.returncode == 2
    assert "the name of test objects that uploads delete; remove or remap it" in done.stderr
    site.remap = json.dumps({f"d/{gone}": "dr1/d/kept"})
    done = site.upload()
    assert done.returncode == 0, done.stderr
    assert "dr1/d/kept" in site.listing()


def test_no_overwrite_keeps_what_is_there(site: Site) -> None:
    site.plan()
    site.client().put_object(Bucket=site.bucket, Key="dr1/spectro/data/001.fits", Body=b"theirs")
    done = site.upload("--no-overwrite")
    assert done.returncode == 3
    assert "--no-overwrite" in done.stderr
    assert site.listing()["dr1/spectro/data/001.fits"][0] == 6
    assert site.runs()[-1]["objects"]["left"] == 1


def test_file_gone_and_unreadable_are_listed_as_failed(site: Site) -> None:
    site.plan()
    (site.release / "tiles/1/1").unlink()
    (site.release / "tiles/2/2").unlink()
    (site.release / "tiles/2/2").mkdir()
    done = site.upload()
    assert done.returncode == 3
    assert "the local file is gone; crawl and plan again: rm find.json; make find.json batch.json" in done.stderr
    assert "next: fix the problems listed below" in done.stdout
    assert site.runs()[-1]["objects"]["failed"] == 2
    assert at_end(done.stdout)[3] >= 1
    unsent = site.verify()
    assert unsent.returncode == 3


def test_dry_run_shows_the_part_size_and_sends_nothing(site: Site) -> None:
    with open(site.release / "huge", "wb") as stream:
        stream.truncate(10_000 * (50 << 20) + 1)
    site.plan()
    done = site.upload("--dry-run")
    assert done.returncode == 0, done.stderr
    huge = next(line for line in done.stdout.splitlines() if "/huge'" in line)
    assert " -p 51 " in huge
    assert site.listing() == {}
    assert not (site.directory / "journal").exists()
    told = json.loads(site.upload("--dry-run", "--json").stdout)
    assert told["objects"] == len(done.stdout.splitlines())


def test_dry_run_of_another_place_is_refused_as_the_real_run_is(site: Site) -> None:
    site.plan()
    assert site.upload().returncode == 0
    assert site.upload("--dry-run").stdout == ""
    for flags in ((), ("--dry-run",)):
        done = site.upload("--bucket", "s3://elsewhere", *flags)
        assert done.returncode == 4
        assert "is for bucket" in done.stderr


def test_terminated_run_stops_cleanly_and_goes_on(site: Site) -> None:
    write_files(site.release, {b"many/%04d" % i: 30_000 for i in range(800)})
    site.plan("--min-batch-size", "2M", "--max-batch-size", "9M")
    process = subprocess.Popen(
        site.upload_command(), cwd=site.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    journal = site.directory / "journal"
    while not list(journal.glob("*.jsonl")):
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 130), output
    assert not list((journal / "leases").iterdir())
    assert site.upload().returncode == 0
    assert site.verify().returncode == 0


def test_a_full_disk_is_named_once_and_the_summary_comes(site: Site) -> None:
    """Nothing may grow beyond 600 bytes: neither the journal, nor, after it, the record of the run."""
    site.plan()
    done = site.upload(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)))
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [done.stderr.splitlines()[-1]]
    assert "cannot append to" in done.stderr
    assert "File too large" in done.stderr
    assert "batches at end" in done.stdout
    assert site.upload().returncode == 0


def test_time_budget_ends_with_success(site: Site) -> None:
    site.plan()
    done = site.upload("--max-time", "0s")
    assert done.returncode == 0, done.stderr
    assert "stopped: the time limit is reached" in done.stdout
    assert "next: make upload" in done.stdout


class TestBadInput:
    """One sentence, the right exit code, no traceback."""

    def check(self, done: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        for word in words:
            assert word in done.stderr

    def test_without_a_plan(self, site: Site) -> None:
        self.check(site.upload(), 2, "batch.json is missing", "make batch.json")

    def test_plan_older_than_its_tree(self, site: Site) -> None:
        site.plan()
        write_files(site.release, {b"later": 4})
        done = site.command(str(REPOSITORY / "find.py"), str(site.release), "-o", "find.json")
        assert done.returncode == 0
        self.check(site.upload(), 4, "make batch.json")

    def test_root_missing_or_a_file(self, site: Site) -> None:
        site.plan()
        root = site.root
        site.root = root / "nowhere"
        self.check(site.upload(), 2, "missing")
        site.root = root / "dr1" / "empty"
        self.check(site.upload(), 2, "not a directory")

    def test_plan_outside_root(self, site: Site, tmp_path: Path) -> None:
        site.plan()
        site.root = tmp_path / "other"
        site.root.mkdir()
        self.check(site.upload(), 4, "it holds another release: ", "entries differ: spectro/data/000.fits")

    @pytest.mark.parametrize("remap", ["{", "[1]", '{"a": 1}', '{"../../x": "y"}', '{"a": "../b"}'])
    def test_remap(self, site: Site, remap: str) -> None:
        site.plan()
        site.remap = remap
        self.check(site.upload(), 2, "remap")

    def test_bucket(self, site: Site) -> None:
        site.plan()
        site.bucket = "not-there-at-all"
        self.check(site.upload(), 1, "does not exist")

    def test_bucket_is_no_url(self, site: Site) -> None:
        site.plan()
        self.check(site.upload("--bucket", "mybucket"), 2, "bucket=s3://name")

    def test_no_credentials(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        site.plan()
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        self.check(site.upload(), 1, "no AWS credentials")

    def test_wrong_secret(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        site.plan()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
        done = site.upload()
        self.check(done, 1, "secret key is wrong")
        assert "wrong-secret" not in done.stderr + done.stdout

    def test_plain_http_elsewhere(self, site: Site) -> None:
        site.plan()
        self.check(site.upload("--endpoint-url", "http://s3.example.org"), 2, "plain http")

    def test_journal_of_another_bucket(self, site: Site, s3: Server) -> None:
        site.plan()
        assert site.upload("--max-batches", "1").returncode == 0
        s3.make_bucket("another-bucket")
        site.bucket = "another-bucket"
        self.check(site.upload(), 4, "journal", "another")

    def test_second_run_is_told_who_holds_the_plan(self, site: Site) -> None:
        site.plan()
        from lading.coordination.lease import Lease

        journal = site.directory / "journal"
        journal.mkdir()
        with Lease(journal, "other"):
            self.check(site.upload(), 75, f"process {os.getpid()}")
            assert site.upload("--join").returncode == 0


def test_through_make(site: Site) -> None:
    """The targets of the makefile, one after the other."""
    import sys

    venv = Path(sys.prefix)
    settings = [f"root={site.root}", f"release={site.release}", f"bucket={site.place}", f"endpoint={site.endpoint}"]
    stamps = ["-o", f"{venv}/.ready", "-o", f"{venv}/.ready-tests", f"venv={venv}"]
    command = ["make", "-s", "-f", str(REPOSITORY / "makefile"), *stamps, *settings, "here=1"]
    done = subprocess.run(
        [*command, "find.json", "batch.json", "upload", "verify"],
        cwd=site.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(site.listing()) == 63
