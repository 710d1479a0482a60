"""A DANDI archive on loopback: its API by the documented shapes, and a versioned bucket whose content is computed.

Input: how many dandisets and assets. Output: an API that pages through them, the objects that their contentUrl name
(GET, HEAD, listings with versions), and manifests of Zarr stores.
Invariant: an asset's bytes, digests and ids follow from its name, so a million of them take no memory; what a test
changes is kept beside. ``fault`` is asked about each request and can answer in its place.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "dandiarchive"
BEGIN = "2024-01-01T00:00:00+00:00"
KEY = "secret-key-of-a-person"


def moment(seconds: int) -> str:
    """Return a time so long after ``BEGIN``."""
    from datetime import datetime, timedelta

    return (datetime.fromisoformat(BEGIN) + timedelta(seconds=seconds)).isoformat()


def uuid_of(name: str) -> str:
    digest = hashlib.md5(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


@lru_cache(maxsize=20_000)
def body_of(name: str) -> bytes:
    """Return the content that a name stands for."""
    if name.endswith(".json"):
        return json.dumps({"Name": name}).encode()
    return (hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest() * 3).encode()


@dataclass
class Item:
    """An asset; ``content`` names its bytes. ``zarr`` is the number of entries of a Zarr store, or None."""

    path: str
    content: str
    modified: int = 1
    zarr: int | None = None
    zarr_id: str = ""
    blob: str = ""
    more: dict[str, Any] = field(default_factory=dict)  # members of the record that differ

    def __post_init__(self) -> None:
        self.blob = self.blob or uuid_of(f"blob {self.content}")


def path_of(number: int) -> str:
    """Return the path of a generated asset."""
    if number == 0:
        return "dataset_description.json"
    return f"sub-{number // 100:03d}/sub-{number // 100:03d}_ses-{number:05d}_ecephys.nwb"


@dataclass
class Dandiset:
    """One dandiset; ``generated`` assets follow from its number, ``own`` are by path, ``without`` are deleted."""

    identifier: str
    generated: int = 0
    own: dict[str, Item] = field(default_factory=dict)
    without: set[str] = field(default_factory=set)
    modified: int = 1
    embargo: str = "OPEN"
    name: str = "A dandiset"
    versions: dict[str, tuple[int, list[Item], dict[str, Any]]] = field(default_factory=dict)
    has_draft: bool = True

    def items(self) -> list[Item]:
        """Return all assets in the order of their paths."""
        found = dict(self.own)
        for number in range(self.generated):
            path = path_of(number)
            if path not in self.without and path not in found:
                blob = f"{int(self.identifier):08x}-0000-4000-8000-{number:012x}"
                found[path] = Item(path, f"{self.identifier}/{path}", blob=blob)
        return [found[path] for path in sorted(found)]

    def count(self) -> int:
        """Return how many assets there are, without making them."""
        numbers = [int(match[1]) for path in self.own if (match := re.search(r"_ses-(\d{5})_ecephys", path))]
        ours = [path for path in self.own if path == path_of(0)] + [n for n in numbers if path_of(n) in self.own]
        hidden = sum(1 for n in ours if n == path_of(0) or (isinstance(n, int) and n < self.generated))
        return self.generated - len(self.without) + len(self.own) - hidden


def entries_of(item: Item) -> Iterator[tuple[str, str]]:
    """Yield (path, content) of a Zarr store's entries, in key order of a plain listing."""
    count = item.zarr or 0
    yield ".zgroup", f"{item.content}/.zgroup"
    for number in range(count - 1):
        yield f"0/{number // 1000:04d}/{number % 1000:03d}", f"{item.content}/{number}"


def chunk_of(content: str) -> bytes:
    return content.encode()


@lru_cache(maxsize=64)
def _zarr_sums(content: str, count: int) -> str:
    from lading.checksums.zarr_checksum import zarr_checksum

    item = Item("", content, zarr=count)
    return zarr_checksum(
        (path, hashlib.md5(chunk_of(name)).hexdigest(), len(chunk_of(name))) for path, name in entries_of(item)
    )


def checksum_of(item: Item) -> str:
    return _zarr_sums(item.content, item.zarr or 0)


Fault = Callable[["Archive", str, dict[str, str], int], "tuple[int, bytes, dict[str, str]] | None"]


@dataclass
class Archive:
    """The whole; ``fault(archive, path, query, number)`` may give (status, body, headers) instead of an answer."""

    dandisets: dict[str, Dandiset] = field(default_factory=dict)
    url: str = ""
    asked: list[str] = field(default_factory=list)
    fault: Fault | None = None
    clock: int = 1000
    bucket_url: str = ""
    damage: bool = False  # of every object the first byte is another
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def api(self) -> str:
        return f"{self.url}/api"

    def add(self, identifier: str, **more: Any) -> Dandiset:
        self.dandisets[identifier] = Dandiset(identifier, **more)
        return self.dandisets[identifier]

    def touch(self, identifier: str) -> Dandiset:
        """Note a change of a dandiset's draft, and return it."""
        self.clock += 100
        found = self.dandisets[identifier]
        found.modified = self.clock
        return found

    def put(self, identifier: str, path: str, content: str = "", **more: Any) -> Item:
        """Add or replace an asset."""
        dandiset = self.touch(identifier)
        dandiset.without.discard(path)
        item = Item(path, content or f"{identifier}/{path}@{self.clock}", self.clock, **more)
        if item.zarr is not None and not item.zarr_id:
            item.zarr_id = uuid_of(f"zarr {identifier} {path}")
        dandiset.own[path] = item
        return item

    def remove(self, identifier: str, path: str) -> None:
        dandiset = self.touch(identifier)
        dandiset.own.pop(path, None)
        dandiset.without.add(path)

    def publish(self, identifier: str, version: str) -> None:
        """Publish what the draft has now."""
        dandiset = self.touch(identifier)
        metadata = {"version": version, "doi": f"10.48324/dandi.{identifier}/{version}"}
        dandiset.versions[version] = (self.clock, dandiset.items(), metadata)

    def reset(self) -> None:
        self.asked.clear()

    # What the API says.

    def _version(self, dandiset: Dandiset, version: str) -> dict[str, Any]:
        if version == "draft":
            count, created, modified = dandiset.count(), 0, dandiset.modified
        else:
            created, items, _ = dandiset.versions[version]
            count, modified = len(items), created
        return {
            "version": version,
            "name": dandiset.name,
            "asset_count": count,
            "active_uploads": 0,
            "size": 192 * count,
            "status": "Published" if version != "draft" else "Valid",
            "created": moment(created).replace("+00:00", "Z"),
            "modified": moment(modified).replace("+00:00", "Z"),
        }

    def _record(self, dandiset: Dandiset) -> dict[str, Any]:
        latest = max(dandiset.versions, key=lambda name: dandiset.versions[name][0], default=None)
        return {
            "identifier": dandiset.identifier,
            "created": moment(0).replace("+00:00", "Z"),
            "modified": moment(dandiset.modified).replace("+00:00", "Z"),
            "contact_person": "Doe, Jane",
            "embargo_status": dandiset.embargo,
            "star_count": 0,
            "is_starred": False,
            "draft_version": self._version(dandiset, "draft") if dandiset.has_draft else None,
            "most_recent_published_version": self._version(dandiset, latest) if latest else None,
        }

    def _asset(self, item: Item) -> dict[str, Any]:
        asset_id = uuid_of(f"asset {item.content} {item.path}")
        blob = item.blob
        base = self.bucket_url or f"{self.url}/{BUCKET}"
        times = {"created": moment(0), "modified": moment(item.modified)}
        if item.zarr is None:
            body = body_of(item.content)
            size, urls = len(body), [f"{base}/blobs/{blob[:3]}/{blob[3:6]}/{blob}"]
            digest = {
                "dandi:dandi-etag": hashlib.md5(hashlib.md5(body).digest()).hexdigest() + "-1",
                "dandi:sha2-256": hashlib.sha256(body).hexdigest(),
            }
            kind = "application/json" if item.path.endswith(".json") else "application/x-nwb"
        else:
            checksum = checksum_of(item)
            size, urls, kind = int(checksum.rpartition("-")[2]), [f"{base}/zarr/{item.zarr_id}/"], "application/x-zarr"
            digest = {"dandi:dandi-zarr-checksum": checksum}
        metadata = {
            "id": f"dandiasset:{asset_id}",
            "path": item.path,
            "identifier": asset_id,
            "contentUrl": [f"{self.api}/assets/{asset_id}/download/", *urls],
            "contentSize": size,
            "digest": digest,
            "encodingFormat": kind,
            "schemaKey": "Asset",
            "schemaVersion": "0.6.8",
        }
        record = {
            "asset_id": asset_id,
            "blob": blob if item.zarr is None else None,
            "zarr": item.zarr_id or None,
            "path": item.path,
            "size": size,
            **times,
            "metadata": metadata,
        }
        for name, value in item.more.items():
            if isinstance(value, dict):
                metadata.update(value)
            else:
                record[name] = value
        return record

    def answer(self, path: str, query: dict[str, str], key: str) -> tuple[int, Any]:
        """Return status and value of one GET of the API."""
        parts = path.strip("/").split("/")[1:]
        if parts == ["dandisets"]:
            hidden = key == KEY and query.get("embargoed") == "true"
            found = [d for d in self.dandisets.values() if d.embargo == "OPEN" or hidden]
            found.sort(key=lambda dandiset: dandiset.identifier)
            if query.get("ordering") == "-modified":
                found.sort(key=lambda dandiset: -dandiset.modified)
            return 200, self._page(path, query, len(found), lambda a, b: [self._record(d) for d in found[a:b]])
        dandiset = self.dandisets.get(parts[1]) if parts[:1] == ["dandisets"] and len(parts) > 1 else None
        if dandiset is None:
            return 404, {"detail": "No Dandiset matches the given query."}
        if dandiset.embargo != "OPEN" and key != KEY:
            return 401, {"detail": "Authentication credentials were not provided."}
        return self._of(dandiset, parts[2:], path, query)

    def _of(self, dandiset: Dandiset, rest: list[str], path: str, query: dict[str, str]) -> tuple[int, Any]:
        if not rest:
            return 200, self._record(dandiset)
        names = [*dandiset.versions, *(["draft"] if dandiset.has_draft else [])]
        if rest == ["versions"]:
            return 200, self._page(
                path, query, len(names), lambda a, b: [self._version(dandiset, name) for name in names[a:b]]
            )
        if len(rest) < 2 or rest[1] not in names:
            return 404, {"detail": "Not found."}
        version = rest[1]
        if rest[2:] == ["info"]:
            return 200, {**self._version(dandiset, version), "metadata": {}}
        if rest[2:] == ["assets"]:
            items = dandiset.items() if version == "draft" else dandiset.versions[version][1]
            return 200, self._page(path, query, len(items), lambda a, b: [self._asset(item) for item in items[a:b]])
        more = dandiset.versions[version][2] if version != "draft" else {"version": "draft"}
        return 200, {
            "id": f"DANDI:{dandiset.identifier}/{version}",
            "identifier": f"DANDI:{dandiset.identifier}",
            "name": dandiset.name,
            "schemaKey": "Dandiset",
            "license": ["spdx:CC-BY-4.0"],
            **more,
        }

    def _page(self, path: str, query: dict[str, str], count: int, items: Callable[[int, int], list[Any]]) -> Any:
        size, page = int(query.get("page_size", 100)), int(query.get("page", 1))
        following = None
        if page * size < count:
            more = "&".join(f"{name}={quote(value)}" for name, value in {**query, "page": str(page + 1)}.items())
            following = f"{self.url}{path}?{more}"
        return {
            "count": count,
            "next": following,
            "previous": None,
            "results": items((page - 1) * size, page * size),
        }

    # What the bucket says.

    def zarr_of(self, identifier: str) -> Item | None:
        for dandiset in self.dandisets.values():
            for item in dandiset.own.values():
                if item.zarr_id == identifier:
                    return item
        return None

    def object(self, key: str) -> bytes | None:
        """Return the content of an object, if it is there."""
        if match := re.fullmatch(r"zarr/([0-9a-f-]{36})/(.+)", key):
            item = self.zarr_of(match[1])
            number = re.fullmatch(r"0/(\d{4})/(\d{3})", match[2])
            if item is None:
                return None
            name = f"{item.content}/" + (str(int(number[1]) * 1000 + int(number[2])) if number else match[2])
            return chunk_of(name)
        blob = key.rpartition("/")[2]
        if match := re.fullmatch(r"([0-9a-f]{8})-0000-4000-8000-([0-9a-f]{12})", blob):
            identifier, number = f"{int(match[1], 16):06d}", int(match[2], 16)
            there = identifier in self.dandisets and number < self.dandisets[identifier].generated
            return body_of(f"{identifier}/{path_of(number)}") if there else None
        for dandiset in self.dandisets.values():
            for items in [dandiset.own.values(), *(items for _, items, _ in dandiset.versions.values())]:
                for item in items:
                    if item.blob == blob:
                        return body_of(item.content)
        return None

    def listing(self, query: dict[str, str]) -> bytes:
        """Return a page of ListObjectVersions of one Zarr store, or an empty one."""
        prefix, after, most = query.get("prefix", ""), query.get("key-marker", ""), int(query.get("max-keys", 1000))
        match = re.fullmatch(r"zarr/([0-9a-f-]{36})/", prefix)
        item = self.zarr_of(match[1]) if match else None
        rows: list[str] = []
        truncated, last = False, ""
        for path, name in entries_of(item) if item else ():
            key = prefix + path
            if key <= after:
                continue
            if len(rows) == most:
                truncated = True
                break
            data, last = chunk_of(name), key
            rows.append(
                f"<Version><Key>{escape(key)}</Key><VersionId>{version_of(name)}</VersionId><IsLatest>true</IsLatest>"
                f"<LastModified>{moment(item.modified if item else 0)[:19]}.000Z</LastModified>"
                f"<ETag>&quot;{hashlib.md5(data).hexdigest()}&quot;</ETag><Size>{len(data)}</Size>"
                "<StorageClass>STANDARD</StorageClass></Version>"
            )
        more = (
            f"<NextKeyMarker>{escape(last)}</NextKeyMarker><NextVersionIdMarker>v</NextVersionIdMarker>"
            if truncated
            else ""
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><MaxKeys>{most}</MaxKeys>"
            f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{more}{''.join(rows)}</ListVersionsResult>"
        ).encode()

    def zarr_manifest(self, identifier: str, checksum: str) -> bytes | None:
        item = self.zarr_of(identifier)
        if item is None or checksum_of(item) != checksum:
            return None
        top: dict[str, Any] = {}
        for path, name in entries_of(item):
            *folders, last = path.split("/")
            here = top
            for folder in folders:
                here = here.setdefault(folder, {})
            data = chunk_of(name)
            here[last] = [version_of(name), moment(item.modified), len(data), hashlib.md5(data).hexdigest()]
        fields = ["versionId", "lastModified", "size", "ETag"]
        return json.dumps({"schemaVersion": 2, "fields": fields, "statistics": {}, "entries": top}).encode()


def version_of(name: str) -> str:
    return hashlib.md5(f"version {name}".encode()).hexdigest()


class _DandiHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    archive: Archive

    def log_message(self, *_: object) -> None: ...

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        archive, parts = self.archive, urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        path = unquote(parts.path)
        with archive.lock:
            archive.asked.append(f"{self.command} {self.path}")
            number = len(archive.asked)
        if archive.fault is not None and (instead := archive.fault(archive, path, query, number)) is not None:
            self.close_connection = len(instead[1]) != int(instead[2].get("Content-Length", len(instead[1])))
            self._send(*instead)
            return
        if path.startswith("/api/"):
            key = self.headers.get("Authorization", "").removeprefix("token ")
            status, value = archive.answer(path, query, key)
            self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/zarr-manifests/"):
            *_, identifier, name = path.split("/")
            found = archive.zarr_manifest(identifier, name.removesuffix(".json"))
            self._send(200 if found else 404, found or b"{}", {"Content-Type": "application/json"})
        else:
            self._bucket(path.removeprefix(f"/{BUCKET}").lstrip("/"), query)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def _bucket(self, key: str, query: dict[str, str]) -> None:
        xml = {"Content-Type": "application/xml"}
        if not key:
            self._send(200, self.archive.listing(query), xml)
            return
        data = self.archive.object(key)
        if data is None:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>", xml)
            return
        if self.archive.damage:
            data = b"?" + data[1:]
        self._send(200, data, {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "x-amz-version-id": version_of(key)})


@contextmanager
def serve(archive: Archive) -> Iterator[Archive]:
    """Serve an archive for the block."""
    handler = type("_Handler", (_DandiHandler,), {"archive": archive})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    archive.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
