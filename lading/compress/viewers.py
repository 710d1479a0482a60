"""Whether a browser can show the images of a compression, and where: links, CORS and content types.

Input: the public address of an OME-Zarr, as a browser asks for it. Output: links for the usual viewers, and what a
viewer in a browser would stumble over.
Invariant: nothing is written; a server is asked for metadata and a few bytes only, without credentials, as a stranger's
browser asks.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import urllib3

# What each viewer's pages are served from: a server has to allow that origin, or all of them.
NEUROGLANCER = "https://neuroglancer-demo.appspot.com"
VIZARR = "https://hms-dbmi.github.io"
VALIDATOR = "https://ome.github.io"
ORIGINS = (NEUROGLANCER, VIZARR)
RULE = {
    "AllowedOrigins": ["*"],
    "AllowedMethods": ["GET", "HEAD"],
    "AllowedHeaders": ["*"],
    "ExposeHeaders": ["Content-Length", "Content-Range", "ETag"],
}
_SECONDS = 20.0


@dataclass(frozen=True)
class ViewerLink:
    """A viewer and what opens an image in it: an address, or a command."""

    viewer: str
    target: str


def links(address: str, name: str) -> list[ViewerLink]:
    """Return what opens an OME-Zarr in each viewer."""
    state = {"layers": [{"type": "image", "source": f"zarr://{address}", "name": name}]}
    packed = quote(json.dumps(state, separators=(",", ":")), safe="")
    asked = quote(address, safe=":/")
    return [
        ViewerLink("neuroglancer", f"{NEUROGLANCER}/#!{packed}"),
        ViewerLink("vizarr", f"{VIZARR}/vizarr/?source={asked}"),
        ViewerLink("validator", f"{VALIDATOR}/ome-ngff-validator/?source={asked}"),
        ViewerLink("napari", f"napari --plugin napari-ome-zarr {address}"),
    ]


def public_address(bucket: str, prefix: str, endpoint: str | None, index: str | None) -> str:
    """Return where a browser finds what is below a prefix: below ``index``, if the bucket has another public name."""
    path = quote(prefix, safe="/")
    if index:
        return f"{index.rstrip('/')}/{path}"
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}/{path}"
    host = f"s3.amazonaws.com/{bucket}" if "." in bucket else f"{bucket}.s3.amazonaws.com"
    return f"https://{host}/{path}"


def address_of(address: str, path: str) -> str:
    """Return where a browser finds an image at ``path`` below an address."""
    return f"{address.rstrip('/')}/{quote(path, safe='/')}"


def documents_of(ngff: str) -> tuple[str, str]:
    """Return the metadata files of an image of a version of NGFF: of the group, then of its finest level."""
    return (".zattrs", "0/.zarray") if ngff == "0.4" else ("zarr.json", "0/zarr.json")


def check_address(address: str, documents: tuple[str, ...]) -> Iterator[str]:
    """Yield a sentence for each thing that keeps a browser from showing an image; ``documents``: its metadata files."""
    pool = urllib3.PoolManager(timeout=_SECONDS, retries=urllib3.Retry(2, redirect=3, raise_on_status=False))
    for document in documents:
        url = f"{address}/{document}"
        for origin in ORIGINS:
            try:
                answer = pool.request("GET", url, headers={"Origin": origin})
            except urllib3.exceptions.HTTPError as error:
                yield f"{url}: cannot be reached ({' '.join(str(error).split())[:200]})"
                return
            if answer.status != 200:
                yield f"{url}: the server answers {answer.status} without credentials; let everybody read it"
                return
            if answer.headers.get("Access-Control-Allow-Origin") not in ("*", origin):
                yield f"{url}: the server does not allow pages of {origin} to read it (CORS)"
            kind = str(answer.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
            if kind.startswith("text/html") or answer.headers.get("Content-Encoding"):
                yield f"{url}: is sent as {kind or 'nothing'}, encoded {answer.headers.get('Content-Encoding')}"
            try:
                json.loads(answer.data)
            except ValueError:
                yield f"{url}: what the server sends is not JSON"
                return
    yield from _check_ranges(pool, f"{address}/{documents[-1]}")


def _check_ranges(pool: urllib3.PoolManager, url: str) -> Iterator[str]:
    """Yield what keeps a browser from reading parts of a shard: it asks first whether it may send ``Range``."""
    asked = {"Origin": NEUROGLANCER, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range"}
    try:
        allowed = pool.request("OPTIONS", url, headers=asked)
        part = pool.request("GET", url, headers={"Origin": NEUROGLANCER, "Range": "bytes=0-3"})
    except urllib3.exceptions.HTTPError as error:
        yield f"{url}: cannot be reached ({' '.join(str(error).split())[:200]})"
        return
    headers = {
        word.strip().lower() for word in str(allowed.headers.get("Access-Control-Allow-Headers") or "").split(",")
    }
    if allowed.status >= 300 or not headers & {"*", "range"}:
        yield f"{url}: the server does not allow the header Range (CORS), which shards need"
    if part.status != 206 or len(part.data) != 4:
        yield f"{url}: the server answers a Range with {part.status} and {len(part.data)} bytes, not with a part"
