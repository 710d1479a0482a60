"""Servers that list in another order, repeat or leave out keys, or whose ETags of parts are no MD5s."""

import hashlib
import re
from pathlib import Path

import pytest

from lading.core import external_sort
from lading.core.atomic import read_log
from lading.objectstore.client import ObjectStore
from lading.objectstore.listing import OutOfOrder, in_order, sort_listing
from lading.objectstore.object_info import ObjectInfo, StoreError
from lading.objectstore.target import Target
from lading.verification import wanted_objects
from lading.verification.manifest import read_manifest
from tests.servers.altered import Answer, Request, serve
from tests.shipping import Site, make_site, write_files

# "a/b" before "a-b": as file systems walk, not as bytes sort.
ODD = {b"a/b": 10, b"a-b": 20, b"a.c": 30, b"a/c/d": 40, b"a0": 50, b"A": 60, b"z/y": 70, b"z-": 80}
LARGE = 51 << 20  # two parts


def contents(data: bytes) -> list[bytes]:
    return re.findall(rb"<Contents>.*?</Contents>", data, re.DOTALL)


def key_of(entry: bytes) -> bytes:
    found = re.search(rb"<Key>(.*?)</Key>", entry, re.DOTALL)
    assert found is not None
    return found[1]


def relist(change):  # type: ignore[no-untyped-def]
    """Return an ``after`` that rewrites the entries of listings."""

    def after(request: Request, answer: Answer) -> Answer:
        status, fields, data = answer
        entries = contents(data)
        if "list-type=2" in request.path and entries:
            start, end = data.index(b"<Contents>"), data.rindex(b"</Contents>") + len(b"</Contents>")
            data = data[:start] + b"".join(change(request, entries)) + data[end:]
        return status, fields, data

    return after


def directory_wise(request: Request, entries: list[bytes]) -> list[bytes]:
    return sorted(entries, key=lambda entry: key_of(entry).split(b"/"))


def voids(site: Site) -> list[dict[str, object]]:
    records = (record for path in (site.directory / "journal").glob("*.jsonl") for record in read_log(path))
    return [record for record in records if record and record["kind"] == "void"]


@pytest.fixture
def site(s3, bucket: str, tmp_path: Path) -> Site:
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, ODD)
    site.plan("--min-batch-size", "1", "--max-batch-size", "100")
    return site


def test_another_order_is_noticed_and_sorted(s3, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(s3, after=relist(directory_wise)) as odd:
        site.endpoint = odd.endpoint
        done = site.upload()
        assert done.returncode == 0, done.stderr
        for _ in range(2):
            done = site.verify()
            assert done.returncode == 0, done.stderr
            assert "lists out of byte order" in done.stderr
            assert "not part of this plan" not in done.stdout
        again = site.upload()
        assert "nothing to send" in again.stdout, again.stdout
    assert voids(site) == []
    manifest = read_manifest(site.directory / "manifest.jsonl.zst")
    keys = [row.key for row in manifest.rows()]
    assert keys == sorted((f"dr1/{name.decode()}" for name in ODD), key=str.encode)
    assert manifest.end.complete


UPLOADS = {
    "order": directory_wise,
    "backwards": lambda request, entries: entries[::-1],
    "twice": lambda request, entries: [entry for one in entries for entry in (one, one)],
    "leaves out": lambda request, entries: entries if len(entries) < 3 else entries[1::2],
}


@pytest.mark.parametrize(
    "way", ["order", "leaves out", *(pytest.param(way, marks=pytest.mark.long) for way in ("backwards", "twice"))]
)
def test_upload_sends_nothing_again_by_such_listings(way: str, s3, site: Site) -> None:
    """Neither in the run that sends it, nor by a second folder that knows of no proof; no proof is taken back."""
    with serve(s3, after=relist(UPLOADS[way])) as odd:
        site.endpoint = odd.endpoint
        done = site.upload()
        assert done.returncode == 0, done.stderr
        (site.directory / "journal").rename(site.directory / "journal-before")
        done = site.upload()
        assert done.returncode == 0, done.stderr
        sent = [r.path.partition("?")[0] for r in odd.requests if r.method == "PUT" and ".lading-canary" not in r.path]
        assert len(sent) == len(set(sent)) == len(ODD)
        assert site.runs()[-1]["objects"]["adopted"] == len(ODD)
        assert ("lists out of byte order" in done.stderr) is (way in ("order", "backwards"))
    assert voids(site) == []


def test_pages_that_ignore_where_they_shall_begin_are_not_followed_for_ever(s3, site: Site) -> None:
    """Some servers do not know StartAfter, and some lead back to the page they come from."""

    def instead(request: Request) -> Answer | None:
        if "list-type=2" not in request.path or "continuation-token" not in request.path:
            return None
        body = b"<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount><IsTruncated>true</IsTruncated>"
        body += b"<NextContinuationToken>again</NextContinuationToken></ListBucketResult>"
        return 200, [("Content-Type", "application/xml")], body

    assert site.upload().returncode == 0
    with serve(s3, instead=instead, after=truncated) as odd:
        store = ObjectStore(Target(site.bucket, odd.endpoint))
        with pytest.raises(StoreError, match="repeats itself"):
            list(store.list("dr1/"))
        with pytest.raises(StoreError, match="repeats itself"):
            store.find(["dr1/zz", "dr1/zzz"])
    with serve(s3, instead=without_start) as odd:
        store = ObjectStore(Target(site.bucket, odd.endpoint))
        found = store.find(["dr1/0", "dr1/a-b", "dr1/z-", "dr1/zz"])
        assert sorted(found) == ["dr1/a-b", "dr1/z-"]


def truncated(request: Request, answer: Answer) -> Answer:
    """Say of each listing that there is more."""
    status, fields, data = answer
    if "list-type=2" in request.path:
        more = b"<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
        data = re.sub(rb"<IsTruncated>false</IsTruncated>", more, data)
    return status, fields, data


def without_start(request: Request) -> Answer | None:
    """Answer each listing with all keys that the site has, wherever it was to begin."""
    if "list-type=2" not in request.path:
        return None
    rows = b"".join(
        b"<Contents><Key>dr1/%s</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>e</ETag><Size>%d</Size>"
        b"</Contents>" % (name, size)
        for name, size in sorted(ODD.items())
    )
    body = (
        b"<ListBucketResult><Name>b</Name><KeyCount>8</KeyCount><IsTruncated>false</IsTruncated>%s</ListBucketResult>"
    )
    return 200, [("Content-Type", "application/xml")], body % rows


def test_listings_without_etags_send_nothing_and_take_nothing_back(s3, site: Site) -> None:
    assert site.upload().returncode == 0
    bare = relist(lambda request, entries: [re.sub(rb"<ETag>.*?</ETag>", b"", entry) for entry in entries])
    with serve(s3, after=bare) as odd:
        for path in (site.directory / "journal").glob("*"):
            if path.suffix == ".index":
                path.unlink()
            elif path.suffix == ".jsonl":
                rewrite_endpoint(path, site.endpoint, odd.endpoint)
        site.endpoint = odd.endpoint
        (site.release / "more").write_text("new")
        site.plan("--min-batch-size", "1", "--max-batch-size", "100")
        for done in (site.upload(), site.verify()):
            assert done.returncode == 1, done.stderr
            assert "has no ETag" in done.stderr
            assert "Traceback" not in done.stderr
        sent = [r for r in odd.requests if r.method == "PUT" and ".lading-canary" not in r.path]
        assert sent == []
    assert voids(site) == []


def test_what_is_lost_is_seen_on_such_a_server_too(s3, site: Site) -> None:
    with serve(s3, after=relist(directory_wise)) as odd:
        site.endpoint = odd.endpoint
        assert site.upload().returncode == 0
        site.client().delete_object(Bucket=site.bucket, Key="dr1/a-b")
        done = site.verify()
        assert done.returncode == 4, done.stderr
        assert "missing: 1: dr1/a-b" in done.stderr
    assert [record["key"] for record in voids(site)] == ["dr1/a-b"]


def test_repeated_keys_count_once(s3, site: Site) -> None:
    with serve(s3, after=relist(lambda request, entries: [e for entry in entries for e in (entry, entry)])) as odd:
        site.endpoint = odd.endpoint
        assert site.upload().returncode == 0
        done = site.verify()
        assert done.returncode == 0, done.stderr
        assert "8 of 8 objects" in done.stdout


def test_a_listing_that_leaves_out_takes_no_proof_back(s3, site: Site) -> None:
    """The full listing lacks a key that the listing of that key alone shows."""
    left_out = relist(
        lambda request, entries: entries if len(entries) < 3 else [e for e in entries if key_of(e) != b"dr1/a0"]
    )
    assert site.upload().returncode == 0
    with serve(s3, after=left_out) as odd:
        site.endpoint, real = odd.endpoint, site.endpoint
        for path in (site.directory / "journal").glob("*"):
            if path.suffix == ".index":
                path.unlink()
            elif path.suffix == ".jsonl":
                rewrite_endpoint(path, real, odd.endpoint)
        done = site.verify()
        assert done.returncode == 3, done.stderr
        assert "the listing leaves it out, but a request for it finds it" in done.stderr
    assert voids(site) == []


def rewrite_endpoint(path: Path, old: str, new: str) -> None:
    """Let a journal speak of the proxy, record by record with its checksum."""
    from lading.core.atomic import encode_record

    lines = []
    for record in read_log(path):
        assert record is not None
        record.pop("crc", None)
        if record.get("endpoint") == old:
            record["endpoint"] = new
        lines.append(encode_record(record))
    path.write_bytes(b"".join(lines))


def test_etags_of_parts_that_are_no_md5s(s3, bucket: str, tmp_path: Path) -> None:
    """Sent once, then proven by what else the server says, or by reading it once."""
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, {b"small": 100, b"large": LARGE})
    site.plan("--min-batch-size", "1", "--max-batch-size", "200M")

    def twist(match: "re.Match[bytes]") -> bytes:
        return hashlib.md5(b"x" + match[1], usedforsecurity=False).hexdigest().encode() + b"-2"

    def after(request: Request, answer: Answer) -> Answer:
        """Show the large object under the ETag of some gateways; this server keeps that of the whole."""
        status, fields, data = answer
        name = b"dr1/large"
        if request.method == "GET" and b"<Contents>" in data:
            pieces = contents(data)
            for piece in pieces:
                if key_of(piece) == name:
                    data = data.replace(piece, re.sub(rb"([0-9a-f]{32})(?:-\d+)?", twist, piece))
        if request.method == "HEAD" and request.path.partition("?")[0].endswith("/dr1/large"):
            fields = [
                (n, re.sub(rb"([0-9a-f]{32})(?:-\d+)?", twist, v.encode()).decode() if n.lower() == "etag" else v)
                for n, v in fields
            ]
        return status, fields, data

    with serve(s3, after=after) as odd:
        site.endpoint = odd.endpoint
        done = site.upload()
        assert done.returncode == 0, done.stderr
        assert "sent 2 objects" in done.stdout, done.stdout
        done = site.verify()
        assert done.returncode == 0, done.stderr
        gets = [r for r in odd.requests if r.method == "GET" and r.path.partition("?")[0].endswith("/dr1/large")]
        assert len(gets) == 1, "read once, for its proof"
    rows = {row.path: row for row in read_manifest(site.directory / "manifest.jsonl.zst").rows()}
    assert rows["large"].checksum == "download"


def listed(*keys: str) -> list[ObjectInfo]:
    return [ObjectInfo(key, 1, "e", f"2026-01-01T00:00:0{number}Z") for number, key in enumerate(keys)]


def test_sorting_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_sort, "PIECE", 2)
    found = list(sort_listing(iter(listed("b", "a", "é", "a", "z", "B", "a/b")), tmp_path))
    assert [item.key for item in found] == ["B", "a", "a/b", "b", "z", "é"]
    assert found[1].modified == "2026-01-01T00:00:03Z", "of a key listed twice the newer one counts"
    assert [item.key for item in in_order(listed("a", "a", "b"))] == ["a", "b"]
    with pytest.raises(OutOfOrder, match="'a' is listed after 'b'"):
        list(in_order(listed("b", "a")))


def test_much_that_is_missing_goes_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted_objects, "PIECE", 3)
    missing = wanted_objects.MissingObjects()
    for number in range(10):
        missing.add(f"ключ/{number}\n", number, f"local/{number}")
    assert list(missing.all()) == [(f"ключ/{number}\n", number, f"local/{number}") for number in range(10)]
