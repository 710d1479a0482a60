"""One release under several paths: a root is a mount of the day, not what a release is known by."""

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.core.atomic import encode_record, read_log
from lading.journal.records import read_headers
from lading.plan.batch_plan import read_plan
from lading.plan.mounts import same_time
from lading.testing.s3_server import Server
from tests.conftest import REPOSITORY, mostly_long
from tests.servers import faults
from tests.shipping import Site, make_site, write_files

COUNT = 24
KINDS = ["link", "copy", "bind"]


class Mounts:
    """A site whose tree is seen as ``A/public`` and ``B/public``; ``at`` chooses."""

    def __init__(self, site: Site, kind: str) -> None:
        self.site, self.kind = site, kind
        self.paths = {name: site.directory / name / "public" for name in "AB"}
        write_files(self.paths["A"] / "dr1", {b"run%d/%02d.bin" % (n % 3, n): 2_000 + n for n in range(COUNT)})
        self.at("A")

    def appear(self) -> None:
        """Let the tree be seen under the second path."""
        one, other = self.paths["A"].parent, self.paths["B"].parent
        if self.kind == "link":
            other.symlink_to(one)
        elif self.kind == "copy":
            shutil.copytree(one, other)
        else:
            other.mkdir()
            subprocess.run(["mount", "--bind", str(one), str(other)], check=True, capture_output=True)

    def at(self, name: str) -> Site:
        self.site.root = self.paths[name]
        self.site.release = self.paths[name] / "dr1"
        return self.site


@pytest.fixture(params=mostly_long(KINDS, "bind"))
def mounts(request, tmp_path: Path, s3: Server, bucket: str) -> Iterator[Mounts]:
    mounts = Mounts(make_site(tmp_path, s3, bucket), request.param)
    try:
        mounts.appear()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no bind mounts here: {error}")
    yield mounts
    if request.param == "bind":
        subprocess.run(["umount", str(mounts.paths["B"].parent)], check=True)


@pytest.fixture
def copy(tmp_path: Path, s3: Server, bucket: str) -> Mounts:
    mounts = Mounts(make_site(tmp_path, s3, bucket), "copy")
    mounts.appear()
    return mounts


def sent(site: Site) -> Counter[str]:
    """Return how often each key was given a proof."""
    done: Counter[str] = Counter()
    for path in (site.directory / "journal").glob("*.jsonl"):
        done.update(record["key"] for record in read_log(path) if record and record["kind"] == "done")
    return done


def verified(site: Site) -> dict[str, int]:
    done = site.verify("--json")
    assert done.returncode == 0, done.stdout + done.stderr
    objects: dict[str, int] = json.loads(done.stdout.splitlines()[-1])["objects"]
    return objects


@pytest.mark.long
def test_switched_ten_times_in_the_middle_nothing_is_hashed_or_sent_twice(mounts: Mounts, s3: Server) -> None:
    site = mounts.at("A")
    site.plan("--min-batch-size", "4k", "--max-batch-size", "5k")
    batches = len(read_plan(site.directory / "batch.json").batches)
    assert batches >= 10
    with faults.serve(s3, lambda _: None) as proxy:
        site.endpoint = proxy.endpoint
        for turn in range(batches + 1):
            done = mounts.at("AB"[turn % 2]).upload("--max-batches", "1")
            assert done.returncode == 0, done.stderr
            assert "another state" not in done.stderr, "nothing is read again"
            assert site.runs()[-1]["root"] == str(site.release)
        runs = site.runs()
        for name in "ABA":
            objects = verified(mounts.at(name))
            assert (objects["proven"], objects["read"]) == (COUNT, 0), name
        listed = {key: size for key, (size, _) in site.listing().items()}
    assert sum(run["objects"]["sent"] for run in runs) == COUNT
    assert set(sent(site).values()) == {1}
    digested = [run["digested"] for run in runs]
    size = sum(2_000 + n for n in range(COUNT))
    assert (sum(run["files"] for run in digested), sum(run["bytes"] for run in digested)) == (COUNT, size)
    keys = {f"dr1/run{n % 3}/{n:02}.bin": 2_000 + n for n in range(COUNT)}
    puts = Counter(request.key for request in proxy.requests if request.put and request.key in keys)
    assert puts == dict.fromkeys(keys, 1), "each object went to the server once"
    assert listed == keys


def test_crawled_again_by_the_other_path_it_goes_on_both_ways(mounts: Mounts) -> None:
    site = mounts.at("A")
    site.plan("--min-batch-size", "10k", "--max-batch-size", "20k")
    assert site.upload("--max-batches", "1").returncode == 0
    first = site.runs()[-1]["objects"]["sent"]
    assert 0 < first < COUNT
    before = read_plan(site.directory / "batch.json")
    mounts.at("B").plan("--min-batch-size", "10k", "--max-batch-size", "20k")
    after = read_plan(site.directory / "batch.json")
    assert (before.root, after.root) == (str(mounts.paths["A"] / "dr1"), str(mounts.paths["B"] / "dr1"))
    assert before.batches[0] in after.batches, "what is proven keeps its batch"
    done = mounts.at("A").upload()
    assert done.returncode == 0, done.stderr
    assert site.runs()[-1]["objects"]["sent"] == COUNT - first
    assert verified(mounts.at("B"))["read"] == 0
    assert verified(mounts.at("A"))["read"] == 0
    assert set(sent(site).values()) == {1}
    mounts.at("A").plan("--min-batch-size", "10k", "--max-batch-size", "20k")
    assert "nothing to send" in mounts.at("B").upload().stdout


def test_a_run_with_nothing_to_send_notes_the_new_path(copy: Mounts) -> None:
    site = copy.at("A")
    site.plan()
    assert site.upload().returncode == 0
    assert "nothing to send" in copy.at("B").upload().stdout
    roots = {header["root"] for header in read_headers(site.directory / "journal")}
    assert roots == {str(path / "dr1") for path in copy.paths.values()}
    # It was compared once: what is gone since is an item's matter, as under any known root.
    (copy.paths["B"] / "dr1" / "run0" / "00.bin").unlink()
    assert "nothing to send" in copy.at("B").upload().stdout


def test_make_goes_on_as_the_manager_of_two_mounts_does(
    make, s3: Server, bucket: str, tmp_path: Path, monkeypatch
) -> None:
    """``/dvs_ro`` and ``/global``: uploaded by one, then by the other, crawled again, and back."""
    s3.make_bucket(bucket)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    write_files(tmp_path / "cfs/public/dr1/a", {b"f%d" % n: 1_000 for n in range(30)})
    (tmp_path / "dvs_ro").symlink_to(tmp_path / "cfs")
    work = tmp_path / "work"
    work.mkdir()

    def go(mount: str, *targets: str, **more: object) -> str:
        root = tmp_path / mount / "public"
        settings = {"root": root, "release": root / "dr1", "bucket": f"s3://{bucket}", "endpoint": s3.endpoint}
        bounds = {"min_batch": "10k", "max_batch": "12k"}
        done = make(*targets, cwd=work, **settings, **bounds, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    go("dvs_ro", "find.json", "batch.json")
    go("dvs_ro", "upload", max_batches=1)
    go("cfs", "upload", max_batches=1)
    go("cfs", "estimate")
    go("cfs", "find.json", "batch.json")
    go("cfs", "upload")
    assert "30 of 30 objects verified" in go("cfs", "verify")
    assert "nothing to send" in go("dvs_ro", "upload")
    assert "read again 0" in go("dvs_ro", "verify")


@pytest.mark.parametrize("stage", ["upload", "verify", "dry-run"])
def test_another_release_is_refused_with_what_differs(copy: Mounts, stage: str) -> None:
    site = copy.at("A")
    site.plan()
    assert site.upload().returncode == 0
    journals = {path.name for path in (site.directory / "journal").glob("*.jsonl")}
    other = copy.paths["B"] / "dr1"
    for number in range(0, 18, 3):
        (other / f"run{number % 3}" / f"{number:02}.bin").unlink()
    changed = other / "run1" / "01.bin"
    changed.write_bytes(b"another and older")
    os.utime(changed, ns=(10**18, 10**18))
    replaced = other / "run2" / "02.bin"
    replaced.unlink()
    replaced.mkdir()
    flags = ("--dry-run",) if stage == "dry-run" else ()
    run = copy.at("B").verify if stage == "verify" else copy.at("B").upload
    done = run(*flags)
    assert done.returncode == 4, done.stdout + done.stderr
    assert (
        f"8 of {COUNT} entries differ: run0/00.bin, run0/03.bin, run0/06.bin, run0/09.bin, run0/12.bin …" in done.stderr
    )
    assert "--same-release" in done.stderr
    assert {path.name for path in (site.directory / "journal").glob("*.jsonl")} == journals
    assert copy.at("A").verify().returncode == 0


def test_what_is_newer_goes_on_and_is_sent_after_the_next_crawl(copy: Mounts) -> None:
    site = copy.at("A")
    site.plan()
    assert site.upload().returncode == 0
    other = copy.paths["B"] / "dr1"
    (other / "run0" / "00.bin").write_bytes(b"corrected")
    (other / "new.bin").write_bytes(b"added")
    assert copy.at("B").upload("--look=never").returncode == 0
    copy.at("B").plan()
    done = copy.at("B").upload("--look=never")
    assert done.returncode == 0, done.stderr
    assert site.runs()[-1]["objects"]["sent"] == 2
    assert site.listing()["dr1/run0/00.bin"][0] == len(b"corrected")


@pytest.mark.parametrize("gone", [0, 3])
def test_another_release_crawled_into_the_folder_is_refused(copy: Mounts, gone: int) -> None:
    site = copy.at("A")
    site.plan()
    assert site.upload().returncode == 0
    plan = (site.directory / "batch.json").read_bytes()
    other = copy.paths["B"] / "dr1"
    if gone:
        for number in range(gone):
            (other / f"run{number % 3}" / f"{number:02}.bin").unlink()
    else:
        shutil.rmtree(other)
        write_files(other, {b"night%d/%02d.fits" % (n, n): 500 for n in range(7)})
    find = [str(REPOSITORY / "find.py"), str(other), "-o", "find.json"]
    assert site.command(*find).returncode == 0
    cut = [str(REPOSITORY / "batch.py"), str(other), "--upload-root", str(other.parent)]
    done = site.command(*cut)
    assert done.returncode == 4, done.stdout
    assert f"{gone or COUNT} of " in done.stderr
    assert "entries differ: dr1/run" in done.stderr
    assert (site.directory / "batch.json").read_bytes() == plan
    # Without its plan the journals still know what they are of.
    (site.directory / "batch.json").unlink()
    assert site.command(*cut).returncode == 4
    assert site.command(*cut, "--fresh", "--min-batch-size", "1k").returncode == 0
    assert copy.at("B").upload().returncode == 4
    assert site.command(*cut, "--same-release", "--min-batch-size", "1k").returncode == 0
    done = copy.at("B").upload("--same-release")
    assert done.returncode == 0, done.stderr
    assert site.runs()[-1]["objects"]["sent"] == (0 if gone else 7)


def test_a_tree_is_cut_by_the_other_path(copy: Mounts) -> None:
    site = copy.at("A")
    site.plan()
    release = copy.paths["B"] / "dr1"
    cut = [str(REPOSITORY / "batch.py"), str(release), "--min-batch-size", "20k"]
    assert site.command(*cut).returncode == 0
    assert read_plan(site.directory / "batch.json").root == str(release)
    (release / "run0" / "00.bin").unlink()
    done = site.command(*cut)
    assert done.returncode == 4
    assert f"1 of {COUNT} entries differ: run0/00.bin;" in done.stderr


def test_journals_of_an_earlier_edition_are_gone_on_with(copy: Mounts) -> None:
    """They do not say where the release lay below its root."""
    site = copy.at("A")
    site.plan("--min-batch-size", "10k", "--max-batch-size", "20k")
    assert site.upload("--max-batches", "1").returncode == 0
    first = site.runs()[-1]["objects"]["sent"]
    for path in (site.directory / "journal").glob("*.jsonl"):
        header, *rest = path.read_bytes().splitlines(keepends=True)
        record = {name: value for name, value in json.loads(header).items() if name not in ("inner", "roots", "crc")}
        path.write_bytes(encode_record(record) + b"".join(rest))
        path.with_suffix(".index").unlink(missing_ok=True)
    done = copy.at("B").upload()
    assert done.returncode == 0, done.stderr
    assert site.runs()[-1]["objects"]["sent"] == COUNT - first
    assert {header.get("inner") for header in read_headers(site.directory / "journal")} == {None, "dr1"}
    # As a root of its own the same tree would be other objects.
    site.root = copy.paths["B"] / "dr1" / "run0"
    done = site.upload()
    assert done.returncode in (2, 4), done.stdout
    assert set(sent(site).values()) == {1}


def test_a_release_that_is_its_own_root_moves_too(copy: Mounts) -> None:
    site = copy.at("A")
    site.root = site.release
    site.plan()
    assert site.upload("--max-batches", "1").returncode == 0
    site.root = copy.paths["B"] / "dr1"
    assert site.upload().returncode == 0
    assert sorted(site.listing()) == sorted(f"run{n % 3}/{n:02}.bin" for n in range(COUNT))
    assert set(sent(site).values()) == {1}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1_700_000_000_123_456_789, 1_700_000_000_123_456_789, True),
        (1_700_000_000_123_456_789, 1_700_000_000_123_456_700, True),
        (1_700_000_000_123_456_789, 1_700_000_000_000_000_000, True),
        (1_700_000_001_123_456_789, 1_700_000_000_000_000_000, True),
        (1_700_000_000_123_456_789, 1_700_000_000_123_456_788, False),
        (1_700_000_003_000_000_001, 1_700_000_000_000_000_000, False),
        (-1, -100, True),
    ],
)
def test_times_of_coarser_mounts_are_equal(one: int, other: int, same: bool) -> None:
    assert same_time(one, other) == same_time(other, one) == same
