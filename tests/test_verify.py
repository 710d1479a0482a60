"""``verify`` among files and connections that fail: what cannot be compared is named, all else goes on."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.server import Server
from lading.formats.manifest import read_manifest
from tests import labtree
from tests.servers import faults
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
    assert "10 proven files no longer exist here" in done.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere; a loop of links stands in below")
def test_a_closed_directory_is_a_finding(site: Site) -> None:
    (site.release / "run1").chmod(0)
    try:
        done, objects = verify_json(site)
    finally:
        (site.release / "run1").chmod(0o755)
    assert done.returncode == 3
    assert "unreadable here: Permission denied" in done.stderr
    assert (objects["proven"], objects["unreadable"]) == (20, 10)


def test_what_cannot_be_looked_at_is_a_finding_and_the_rest_goes_on(site: Site) -> None:
    """ELOOP stands for EACCES and EIO; the old proof stays, for nothing speaks against it."""
    victim = site.release / "run1" / "01.bin"
    kept = victim.read_bytes(), victim.stat().st_mtime_ns
    victim.unlink()
    victim.symlink_to(victim)
    done, objects = verify_json(site)
    assert done.returncode == 3, done.stderr
    assert "dr1/run1/01.bin (unreadable here: Too many levels" in done.stderr
    assert (objects["proven"], objects["unreadable"], objects["differing"]) == (COUNT - 1, 1, 0)
    assert len(proven(site)) == COUNT - 1
    victim.unlink()
    victim.write_bytes(kept[0])
    os.utime(victim, ns=(kept[1], kept[1]))
    done, objects = verify_json(site)
    assert done.returncode == 0, done.stderr
    assert objects["read"] == 0


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
