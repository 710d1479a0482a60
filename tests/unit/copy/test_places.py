"""Which places a release may be copied to, what they are called, and the list of them."""

import json
from pathlib import Path

import pytest

from lading.cli.copy import check_apart, server_of
from lading.core.errors import UsageError
from lading.objectstore.keys import parse_key_prefix
from lading.verification.manifest import ManifestHeader
from lading.verification.places import (
    ReleasePlace,
    check_place_name,
    find_place,
    place_manifest_path,
    places_path,
    read_places,
    write_places,
)

HEADER = ManifestHeader("lab", "dr1/", "http://127.0.0.1:9000", "/r", "0" * 64, "2026-01-01T00:00:00Z", {})


@pytest.mark.parametrize(
    ("to", "endpoint", "refused"),
    [
        ("s3://lab/dr1", "http://127.0.0.1:9000", True),
        ("s3://lab/dr1/inside", "http://127.0.0.1:9000", True),
        ("s3://lab", "http://127.0.0.1:9000", True),
        ("s3://lab/dr1", "http://localhost:9000/", True),
        ("s3://lab/dr1", "http://LOCALHOST:9000", True),
        ("s3://lab/dr1-second", "http://127.0.0.1:9000", False),
        ("s3://lab2/dr1", "http://127.0.0.1:9000", False),
        ("s3://lab/dr1", "http://127.0.0.1:9001", False),
        ("s3://lab/dr1", None, False),
    ],
)
def test_a_place_inside_the_release(to: str, endpoint: str | None, refused: bool) -> None:
    if refused:
        with pytest.raises(UsageError, match="give another bucket, or a prefix beside it"):
            check_apart(HEADER, HEADER.endpoint, parse_key_prefix(to), endpoint)
    else:
        check_apart(HEADER, HEADER.endpoint, parse_key_prefix(to), endpoint)


def test_one_server_has_one_name() -> None:
    assert server_of("https://s3.example.org") == server_of("https://S3.example.org:443/")
    assert server_of(None) != server_of("https://s3.example.org")


@pytest.mark.parametrize("name", ["", "origin", ".hidden", "a/b", "a b", "..", "x" * 101, "naïve"])
def test_names_that_no_place_can_have(name: str) -> None:
    with pytest.raises(UsageError):
        check_place_name(name)


def test_the_list_of_places(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl.zst"
    assert read_places(manifest) == []
    place = ReleasePlace(
        "second", "s3://b/p/", None, "manifest.second.jsonl.zst", "1" * 64, "2" * 64, 3, 4, True, "2026-01-01T00:00:00Z"
    )
    write_places(manifest, HEADER, [place])
    assert read_places(manifest) == [place]
    assert json.loads(places_path(manifest).read_text())["origin"]["url"] == "s3://lab/dr1/"
    assert find_place(manifest, "second") == place_manifest_path(manifest, "second") == tmp_path / place.manifest
    assert find_place(manifest, "origin") == manifest
    with pytest.raises(UsageError, match="it has origin, second"):
        find_place(manifest, "third")


@pytest.mark.parametrize("change", [{"kind": "x"}, {"format": 2}, {"places": [{"name": "a"}]}, {"places": 3}])
def test_a_damaged_list(tmp_path: Path, change: dict[str, object]) -> None:
    manifest = tmp_path / "m.zst"
    write_places(manifest, HEADER, [])
    path = places_path(manifest)
    assert path.name == "m.places.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match="is damaged"):
        read_places(manifest)


def test_a_list_that_leads_elsewhere(tmp_path: Path) -> None:
    manifest = tmp_path / "m.zst"
    place = ReleasePlace("a", "s3://b/", None, "../../etc/passwd", "", "", 0, 0, True, "")
    write_places(manifest, HEADER, [place])
    with pytest.raises(UsageError, match="outside its folder"):
        find_place(manifest, "a")
