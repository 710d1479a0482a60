"""Archived objects: verify takes the listing's word, restore asks them back and fetches them when they are there.

moto refuses the bytes of GLACIER objects as Amazon S3 does, but thaws at once; a proxy before it holds them back.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from lading.verification.manifest import read_manifest
from tests.servers import altered
from tests.servers.moto import ENVIRONMENT, Moto, serve
from tests.shipping import Site, walk, write_files

REFUSAL = b"<Error><Code>InvalidObjectState</Code><Message>not valid for the storage class</Message></Error>"


@dataclass
class Vault:
    """What of the keys in ``classes`` is asked back, and what has come; ``asked`` holds the bodies of the requests."""

    classes: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    there: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def instead(self, request: altered.Request) -> altered.Answer | None:
        key = unquote(urlsplit(request.path).path).lstrip("/").partition("/")[2]
        if key not in self.classes:
            return None
        if request.method == "POST" and urlsplit(request.path).query.startswith("restore"):
            with self.lock:
                self.requests += 1
                again = key in self.asked
                self.asked[key] = request.body.decode()
            return (409, [], b"<Error><Code>RestoreAlreadyInProgress</Code></Error>") if again else (202, [], b"")
        if request.method == "GET" and not (self.there and key in self.asked):
            return 403, [("Content-Type", "application/xml")], REFUSAL
        return None

    def after(self, request: altered.Request, answer: altered.Answer) -> altered.Answer:
        key = unquote(urlsplit(request.path).path).lstrip("/").partition("/")[2]
        status, fields, body = answer
        if request.method != "HEAD" or key not in self.classes:
            return answer
        more = [("x-amz-storage-class", self.classes[key])]
        if key in self.asked:
            date = ', expiry-date="Fri, 11 Dec 2026 00:00:00 GMT"' if self.there else ""
            more.append(("x-amz-restore", f'ongoing-request="{"false" if self.there else "true"}"{date}'))
        kept = [pair for pair in fields if pair[0].lower() != "x-amz-storage-class"]
        return status, kept + more, body


@pytest.fixture(scope="module")
def moto_server() -> Iterator[Moto]:
    with serve() as server:
        yield server


@pytest.fixture
def site(tmp_path: Path, moto_server: Moto, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    moto_server.make_bucket(bucket)
    site = Site(tmp_path, moto_server.endpoint, bucket)
    write_files(site.release, {b"a/%d.bin" % n: 3000 + n for n in range(8)})
    site.plan("--min-batch-size", "1G", "--max-batch-size", "1T")
    return site


def restore(site: Site, to: str, *flags: str):  # type: ignore[no-untyped-def]
    return site.command("-m", "lading", "restore", "--to", to, "--endpoint-url", site.endpoint, *flags)


def test_verify_restore_thaw_restore(site: Site) -> None:
    """On moto alone, which thaws at once."""
    done = site.upload("--storage-class", '{"[0-3].bin": "GLACIER", "4.bin": "DEEP_ARCHIVE", "*": "STANDARD_IA"}')
    assert done.returncode == 0, done.stderr
    done = site.verify("--full")
    assert done.returncode == 0, done.stderr
    assert "note: 5 objects are archived, so their bytes were not read; listing and record agree" in done.stdout
    assert "downloaded 3" in done.stdout
    found = site.runs()[-1]["objects"]
    assert (found["proven"], found["archived"], found["differing"], found["unreadable"]) == (8, 5, 0, 0)
    more = ["--manifest", "manifest.jsonl.zst", "--deep", "--json", "--endpoint-url", site.endpoint]
    alone = site.command("-m", "lading", "verify", *more)
    assert alone.returncode == 0, alone.stderr
    assert (json.loads(alone.stdout)["archived"], json.loads(alone.stdout)["objects"]["right"]) == (5, 8)
    done = restore(site, "back")
    assert done.returncode == 3, done.stderr
    assert "restore  incomplete: 3 files" in done.stdout
    assert "archived: 4 objects, 12 kB in GLACIER; asked back now 0" in done.stdout
    assert "thawing by Bulk: about 0.00 USD for 7 days, 5 to 12 h" in done.stdout
    assert "not restored: 5 objects are archived; ask for them with --thaw tier=Bulk days=7" in done.stderr
    done = restore(site, "back", "--thaw", "tier=Standard", "days=3")
    assert done.returncode == 3, done.stderr
    assert "5 objects are archived; they are on their way; run again in 12 h" in done.stderr
    done = restore(site, "back")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "restore  complete: 5 files" in done.stdout
    assert walk(site.directory / "back") == walk(site.release)


def test_what_is_on_its_way_is_not_asked_for_again(site: Site) -> None:
    assert site.upload().returncode == 0
    assert site.verify().returncode == 0
    keys = sorted(site.listing())
    vault = Vault({key: "DEEP_ARCHIVE" if number else "GLACIER" for number, key in enumerate(keys[:4])})
    with altered.serve(Moto(site.endpoint), instead=vault.instead, after=vault.after) as proxy:
        site.endpoint = proxy.endpoint
        done = restore(site, "back", "--thaw", "tier=bulk", "days=9", "--json")
        assert done.returncode == 3, done.stderr
        assert "run again in 48 h" in done.stderr, "the slowest class decides"
        assert json.loads(done.stdout)["archived"]["DEEP_ARCHIVE"] == {
            "objects": 3, "bytes": 9006, "asked": 3, "on_its_way": 0,
        }  # fmt: skip
        assert vault.requests == 4
        assert all("<Days>9</Days>" in body and "<Tier>Bulk</Tier>" in body for body in vault.asked.values())
        done = restore(site, "back", "--thaw")
        assert (done.returncode, vault.requests) == (3, 4), done.stderr
        assert "asked back now 0, on their way before 3" in done.stdout
        vault.there = True
        done = restore(site, "back", "--thaw")
        assert (done.returncode, vault.requests) == (0, 4), done.stderr
    assert walk(site.directory / "back") == walk(site.release)


def test_what_cannot_be_asked_is_said(site: Site) -> None:
    assert site.upload("--storage-class", "GLACIER").returncode == 0
    assert site.verify().returncode == 0
    assert {row.storage_class for row in read_manifest(site.directory / "manifest.jsonl.zst").rows()} == {"GLACIER"}
    done = restore(site, "back", "--thaw", "tier=Fast", "days=0", "soon")
    assert (done.returncode, done.stderr.count("\n")) == (2, 3), done.stderr
    assert not (site.directory / "back").exists()


def test_an_archived_object_of_others_is_not_replaced(site: Site) -> None:
    """Its ETag is enough by default; where its bytes are demanded, it is refused by name and stays."""
    for path in sorted((site.release / "a").iterdir()):
        body = path.read_bytes()
        site.client().put_object(Bucket=site.bucket, Key=f"dr1/a/{path.name}", Body=body, StorageClass="GLACIER")
    before = site.listing()
    done = site.upload("--adopt", "download")
    assert done.returncode == 3, done.stderr
    assert "is archived under its key, and cannot be read to compare" in done.stderr
    assert site.listing() == before
    done = site.upload()
    assert done.returncode == 0, done.stderr
    assert (site.runs()[-1]["objects"]["sent"], site.runs()[-1]["objects"]["adopted"]) == (0, 8)
