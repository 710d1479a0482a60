"""What is no regular file, and what a file is beside its bytes: from the crawl to the restored tree."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from lading.testing.s3_server import Server
from lading.tree.metadata_file import metadata_path
from lading.verification.manifest import read_manifest
from tests import every_kind
from tests.conftest import need_program
from tests.shipping import Site, make_site

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def site(tmp_path: Path, s3: Server, bucket: str) -> Site:
    site = make_site(tmp_path, s3, bucket)
    try:
        every_kind.make(site.release)
    except OSError as error:
        pytest.skip(f"this file system does not hold every kind of entry: {error}")
    return site


def restore(site: Site, to: str, *flags: str) -> "subprocess.CompletedProcess[str]":
    return site.command("-m", "lading", "restore", "--to", to, *flags)


def deliver(site: Site, *flags: str) -> None:
    site.plan(find=flags)
    done = site.upload()
    assert done.returncode == 0, done.stdout + done.stderr
    done = site.verify()
    assert done.returncode == 0, done.stdout + done.stderr


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {
        path: (one.get(path), other.get(path)) for path in one.keys() | other.keys() if one.get(path) != other.get(path)
    }


@pytest.mark.skipif(not AS_ROOT, reason="only root sees and sets all of it")
def test_every_kind_comes_back_or_is_named(site: Site) -> None:
    before = every_kind.look(site.release)
    deliver(site, "--metadata")
    done = restore(site, "back", "--metadata")
    assert done.returncode == 0, done.stdout + done.stderr
    after = every_kind.look(site.directory / "back" / "")
    assert set(differences(before, after)) == every_kind.NOT_MADE
    for path in every_kind.NOT_MADE:
        assert path not in after
        assert path in done.stderr, "what was not made is named"
    assert "not put back" not in done.stderr
    assert after["sparse"]["sparse"]
    assert not after["zeros"]["sparse"], "only what had holes gets them"
    assert after["third"]["names"] == ["a/b/first", "d/second", "third"]

    # Again, nothing is fetched or changed; and what was not made is made where that is asked for.
    again = restore(site, "back", "--metadata", "--outside-links", "--json")
    assert again.returncode == 0, again.stderr
    record = json.loads(again.stdout.splitlines()[-1])
    assert (record["restored"], record["links"]) == (0, 3)
    assert set(differences(before, every_kind.look(site.directory / "back"))) == {"fifo", "socket"}


@pytest.mark.long
def test_every_stage_counts_and_names_them(site: Site) -> None:
    """Found by the crawl, said by each stage after it, by the report too."""
    deliver(site)
    counts = {
        "links": 9, "dangling_links": len(every_kind.DANGLING), "outside_links": 3, "empty_directories": 3,
        "sockets": 1, "fifos": 1, "devices": 0, "unknown": 0, "unreadable": 0,
    }  # fmt: skip
    meta = json.loads((site.directory / "find.meta.json").read_text())["not_regular"]
    plan = json.loads((site.directory / "batch.json").read_text())["crawl"]["not_regular"]
    runs = [run["crawl"]["not_regular"] for run in site.runs()]
    end = read_manifest(site.directory / "manifest.jsonl.zst").end
    assert end.not_regular is not None
    for found in (meta, plan, *runs):
        assert {kind: known["count"] for kind, known in found.items()} == counts
        assert set(found["dangling_links"]["names"]) == every_kind.DANGLING
    assert {kind: end.not_regular.count(kind) for kind in counts} == counts
    release = str(site.release)
    for command in (
        ["batch", release, "--file-tree", "find.json", "--upload-root", str(site.root)],
        ["estimate", release, "-o", "batch.json", "--upload-root", str(site.root)],
        ["upload", *site.arguments()],
        ["upload", *site.arguments("--dry-run")],
        ["verify", *site.arguments()],
        ["restore", "--to", "back"],
        ["status"],
    ):
        done = site.command("-m", "lading", *command)
        assert done.returncode == 0, (command, done.stderr)
        said = done.stdout + done.stderr
        for words in (
            "9 links: ",
            "links that lead nowhere: ",
            "3 links that lead out of the release: ",
            "1 fifo: fifo",
        ):
            assert words in said, (command, said)
    done = site.command("-m", "lading", "report")
    assert done.returncode == 0, done.stderr
    page = (site.directory / "report" / "index.html").read_text()
    assert "1 fifo: fifo" in page
    # Without metadata: files, links and empty directories, and nothing of their modes.
    after = every_kind.look(site.directory / "back")
    assert after["links/dangling"]["target"] == b"nowhere"
    assert "empty-locked" in after
    assert after["mode-0000"]["mode"] != "0o100000"
    estimated = site.command(
        "-m", "lading", "estimate", release, "--json", "-o", "batch.json", "--upload-root", str(site.root)
    )
    assert json.loads(estimated.stdout)["crawl"]["not_regular"] == plan


def test_a_selection_counts_its_own(site: Site) -> None:
    site.plan("--subdir", "links", "--exclude", "loop*", "--min-batch-size", "1", "--max-batch-size", "1M")
    found = json.loads((site.directory / "batch.json").read_text())["crawl"]["not_regular"]
    assert {kind: known["count"] for kind, known in found.items() if known["count"]} == {
        "links": 6, "dangling_links": 3, "outside_links": 3,
    }  # fmt: skip


@pytest.mark.parametrize("walk", ["core", "python"])
def test_followed_links_that_lead_nowhere_are_items_that_failed(site: Site, walk: str) -> None:
    (site.release / "links" / "up").symlink_to("..")
    shutil.rmtree(site.release / "links" / "absolute", ignore_errors=True)
    (site.release / "links" / "absolute").unlink(missing_ok=True)
    done = site.command(
        "-m", "lading", "find", str(site.release), "--links", "follow", "-o", "find.json",
        env=dict(os.environ, LADING_WALK=walk),
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    for path in every_kind.DANGLING - {"links/loop", "links/loop-a", "links/loop-b"}:
        assert f"could not read {path}: a link that leads nowhere" in done.stderr
    for path in ("links/loop", "links/loop-a", "links/loop-b", "links/up"):
        assert f"could not read {path}: a link that leads back to where it is" in done.stderr


@pytest.mark.long
def test_a_link_in_the_way_is_never_gone_through(site: Site, tmp_path: Path) -> None:
    deliver(site)
    trap = tmp_path / "trap"
    trap.mkdir()
    back = tmp_path / "back"
    back.mkdir()
    (back / "links").symlink_to(trap)
    (back / "empty").symlink_to(trap)
    (back / "a").mkdir()
    done = restore(site, "back")
    assert done.returncode == 3
    assert list(trap.iterdir()) == []
    assert "links/inside" in done.stderr
    (back / "links").unlink()
    (back / "links").mkdir()
    (back / "links" / "inside").write_text("somebody's")
    (back / "links" / "dangling").symlink_to("another")
    done = restore(site, "back")
    assert done.returncode == 3
    assert (back / "links" / "inside").read_text() == "somebody's"
    assert os.readlink(back / "links" / "dangling") == "another"
    assert "links/inside: something else is there" in done.stderr
    assert "links/dangling: another link is there" in done.stderr


@pytest.mark.long
def test_a_damaged_metadata_file_is_refused(site: Site) -> None:
    site.plan(find=("--metadata",))
    assert site.upload().returncode == 0
    path = metadata_path(site.directory / "find.json")
    text = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    path.write_bytes(zstandard.compress(text.replace(b'"mode":0,', b'"mode":7,')))
    done = site.verify()
    assert done.returncode == 4, done.stderr
    assert "it was edited or damaged; run: rm find.json; make find.json" in done.stderr
    assert not (site.directory / "manifest.jsonl.zst").exists()


@pytest.mark.long
@pytest.mark.skipif(not AS_ROOT, reason="only root gives files away")
def test_accounts_are_mapped_by_a_table(site: Site, tmp_path: Path) -> None:
    deliver(site, "--metadata")
    table = tmp_path / "accounts"
    table.write_text("# old new\nuser 12345 4711\ngroup 23456 4712\nuser 4242 4243\n")
    done = restore(site, "back", "--metadata", "--map-users", str(table))
    assert done.returncode == 0, done.stderr
    after = every_kind.look(tmp_path / "back")
    assert after["attributes"]["owner"] == (4711, 4712)
    assert after["attributes"]["xattrs"]["system.posix_acl_access"] == every_kind.ACL.replace(
        (4242).to_bytes(4, "little"), (4243).to_bytes(4, "little")
    )
    assert after["setuid"]["mode"] == "0o106755"
    assert after["links/inside"]["owner"] == (4711, 4712)

    table.write_text("user 12345 nobody-of-this-name\nuser a b c\ngroup 1 99999999999\nowner 1 2\n")
    done = restore(site, "other", "--metadata", "--map-users", str(table))
    assert done.returncode == 2
    assert "line 1: there is no user nobody-of-this-name here" in done.stderr
    assert done.stderr.count("line ") == 4
    assert not (tmp_path / "other").exists(), "nothing is written before the table is good"
    assert restore(site, "other", "--map-users", str(table)).returncode == 2


@pytest.mark.long
@pytest.mark.skipif(not AS_ROOT, reason="sheds the rights of root")
def test_another_user_gets_what_may_be_had_and_is_told_the_rest(site: Site, tmp_path: Path) -> None:
    """Twice: a file of mode 0000 that is there is read to be proven, by its owner who may not read it as it is."""
    need_program("setpriv")
    deliver(site, "--metadata")
    back = tmp_path / "back"
    rights = ["setpriv", "--bounding-set=-chown,-dac_override,-dac_read_search,-fowner,-fsetid"]
    command = [*rights, sys.executable, "-m", "lading", "restore", "--to", str(back), "--metadata"]
    for turn in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (turn, done.stdout + done.stderr)
        assert "not put back: the owner, whom only root may set: " in done.stderr
        assert "not put back: the setuid bit, as the owner is another: 1: setuid" in done.stderr
    after = every_kind.look(back)
    assert after["setuid"]["mode"] == "0o100755"
    assert after["mode-0000"]["mode"] == "0o100000"
    assert after["attributes"]["xattrs"]["user.note"] == b"a \0 value"


@pytest.mark.long
def test_holes_are_made_of_zeros_where_asked(site: Site, tmp_path: Path) -> None:
    deliver(site)
    assert restore(site, "all", "--sparse").returncode == 0
    assert restore(site, "none", "--no-sparse").returncode == 0
    assert (tmp_path / "all" / "zeros").stat().st_blocks == 0
    for name in ("sparse", "zeros"):
        status = (tmp_path / "none" / name).stat()
        assert status.st_blocks * 512 >= status.st_size
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "none" / name).read_bytes()


@pytest.mark.long
@pytest.mark.skipif(not AS_ROOT, reason="only root reads and gives back all of it")
def test_make_knows_the_settings(site: Site, make: Any, s3: Server, bucket: str, tmp_path: Path) -> None:
    settings = {"root": site.root, "release": site.release, "bucket": f"s3://{bucket}", "endpoint": s3.endpoint}
    done = make("find.json", "batch.json", "upload", "verify", attributes=1, links="record", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    done = make("restore", attributes=1, sparse=1, to=tmp_path / "back", endpoint=s3.endpoint)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "back" / "setuid").stat().st_mode & 0o7777 == 0o6755
    assert (tmp_path / "back" / "zeros").stat().st_blocks == 0
