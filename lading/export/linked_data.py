"""A manifest as linked data: RO-Crate and Croissant, which catalogues and machine learning tools read.

Input: a manifest, addresses. Output: one JSON-LD file, written row by row.
Invariant: a file is named by its public address, with its size and its strongest digest. Memory does not grow with the
rows.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write
from lading.core.progress import counted
from lading.core.version import VERSION
from lading.export.addresses import Addresses
from lading.export.writers import Exported
from lading.verification.manifest import Manifest, ManifestRow

CRATE = "ro-crate-metadata.json"
_CRATE_CONTEXT = [
    "https://w3id.org/ro/crate/1.1/context",
    {"sha256": "https://schema.org/sha256"},
]
# As the Croissant 1.0 specification has it.
_CROISSANT_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def readable(path: str) -> str:
    """Return a path whose bytes that are no UTF-8 became ``\\xNN``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _described(manifest: Manifest, addresses: Addresses) -> dict[str, Any]:
    header, end = manifest.header, manifest.end
    found: dict[str, Any] = {
        "name": addresses.name,
        "description": f"{counted(end.objects, 'file')}, {end.bytes:,} bytes in s3://{header.bucket}/{header.prefix}",
        "datePublished": header.created_at[:10],
        "url": addresses.url(header.prefix),
    }
    return found | ({"license": addresses.license} if addresses.license else {})


def _write_list(stream: Any, items: Iterable[Mapping[str, Any]]) -> None:
    """Write the items of a JSON list, one a line."""
    for count, item in enumerate(items):
        stream.write((",\n" if count else "\n") + json.dumps(item))


def write_ro_crate(manifest: Manifest, out: Path, addresses: Addresses) -> Exported:
    """Write ``ro-crate-metadata.json`` (RO-Crate 1.1), whose files are web-based data entities."""
    done = Exported()

    def parts() -> Iterator[dict[str, str]]:
        return ({"@id": addresses.url(row.key)} for row in manifest.rows())

    def files() -> Iterator[dict[str, Any]]:
        for row in manifest.rows():
            done.rows += 1
            found = {
                "@id": addresses.url(row.key),
                "@type": "File",
                "name": readable(row.path),
                "contentSize": str(row.size),
            }
            yield found | ({"sha256": row.sha256} if row.sha256 else {})

    about = {
        "@id": CRATE,
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    described = _described(manifest, addresses)
    licence = described.pop("license", None)
    if licence:
        described["license"] = {"@id": licence}
    root = {"@id": "./", "@type": "Dataset", **described}
    with atomic_write(out) as stream:
        stream.write(f'{{"@context": {json.dumps(_CRATE_CONTEXT)},\n"@graph": [\n{json.dumps(about)},\n')
        stream.write(json.dumps(root)[:-1] + ', "hasPart": [')
        _write_list(stream, parts())
        stream.write("]}" + (",\n" if manifest.end.objects else "\n"))
        _write_list(stream, files())
        stream.write("\n]}\n")
    return done


def write_croissant(manifest: Manifest, out: Path, addresses: Addresses) -> Exported:
    """Write a Croissant 1.0 description; a file without a digest cannot be in it."""
    done = Exported()

    def files() -> Iterator[dict[str, Any]]:
        for row in manifest.rows():
            if (digest := _digest(row)) is None:
                done.leave_out(row, "croissant asks for the SHA-256 or MD5 of each file, and the manifest has none")
                continue
            done.rows += 1
            yield {
                "@type": "cr:FileObject",
                "@id": f"file-{done.rows}",  # its readers take no spaces in one
                "name": readable(row.path),
                "contentUrl": addresses.url(row.key),
                "contentSize": f"{row.size} B",
                "encodingFormat": "application/octet-stream",
                digest[0]: digest[1],
            }

    head = {
        "@context": _CROISSANT_CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "version": "1.0.0",
        "creator": {"@type": "sc:Organization", "name": f"lading {VERSION}"},
        **_described(manifest, addresses),
    }
    with atomic_write(out) as stream:
        stream.write(json.dumps(head)[:-1] + ', "distribution": [')
        _write_list(stream, files())
        stream.write("\n]}\n")
    return done


def _digest(row: ManifestRow) -> tuple[str, str] | None:
    return ("sha256", row.sha256) if row.sha256 else ("md5", row.md5) if row.md5 else None
