"""Content types by name: what is remembered by extensions is what the whole name says."""

import itertools

from lading.upload.prepare import content_type

PARTS = ["a", "b.c", "", "tar", "gz", "tgz", "nii", "txt", "json", "Z", "bz2", "PNG", "x:y", " ", "é", "svgz"]


def test_the_last_extensions_say_what_the_name_says() -> None:
    whole = content_type.__globals__["_type_of"].__wrapped__
    for count in (1, 2, 3):
        for parts in itertools.product(PARTS, repeat=count):
            name = ".".join(parts)
            assert content_type(f"d/{name}") == whole(name), name


def test_types() -> None:
    names = {"a/b.txt": "text/plain", "x.tar.gz": "application/gzip", "x.nii": "application/octet-stream"}
    assert {name: content_type(name) for name in names} == names
    assert content_type(".gz") == content_type("README") == "application/octet-stream"
