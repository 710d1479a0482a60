"""Entries of listings, taken out of answers before botocore parses them: the same as botocore would give."""

import functools
import random
from typing import Any

import botocore.handlers
import botocore.parsers
import botocore.session
import pytest

from lading.objectstore import quick_listing
from lading.objectstore.quick_listing import FIELDS, take_contents
from lading.objectstore.s3_requests import S3Requests
from lading.objectstore.target import Target

ENTRY = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-28T14:00:00.000Z</LastModified><ETag>&quot;{etag}&quot;</ETag>"
    "<Size>{size}</Size>{more}</Contents>"
)
OWNER = "<Owner><ID>1</ID><DisplayName>Key</DisplayName></Owner><StorageClass>GLACIER</StorageClass>"
ALGORITHMS = "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>"


def entry(key: str, etag: str = "0" * 32, size: object = 5, more: str = "") -> str:
    return ENTRY.format(key=key, etag=etag, size=size, more=more)


def document(*entries: str, head: str = '<?xml version="1.0" encoding="UTF-8"?>', between: str = "") -> bytes:
    outer = 'ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    body = "<Name>b</Name><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>"
    return f"{head}<{outer}>{body}{between.join(entries)}<MaxKeys>1000</MaxKeys></ListBucketResult>".encode()


SAME = {
    "none": document(),
    "one": document(entry("a/b")),
    "many": document(*(entry(f"k{n}", size=n) for n in range(50))),
    "entities": document(entry("a&amp;b&lt;c&gt;&quot;&#39;&#x20ac;é%2Fd"), entry("<![CDATA[a<b]]>")),
    "spaces": document(entry(" a "), entry("b\n"), between="\n  "),
    "owners": document(entry("a", more=OWNER), entry("b", more=ALGORITHMS + OWNER)),
    "of two kinds": document(entry("a"), entry("b", more=ALGORITHMS), entry("c"), entry("d", more=OWNER), entry("e")),
    "an entity that is none": document(entry("a&amp;quot;b")),
    "quotes": document(entry("&quot;a\"b'c>")),
    "carriage return": document(entry("a\rb"), entry("c\r\nd")),
    "a hundred thousand elements": document(entry("a", more="<Other>1</Other>" * 100_000), entry("b")),
    "no class": document(entry("a"), entry("b", more="<StorageClass></StorageClass>")),
    "no declaration": document(entry("a"), head=""),
    "empty key": document(entry("")),
    "long number": document(entry("a", size=10**15)),
}
LEFT = {
    "other order": document(entry("a"), "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>", entry("b")),
    "no size": document("<Contents><Key>a</Key></Contents>"),
    "nonsense": document(entry("a", size="many")),
    "time zone": document(entry("a").replace("000Z", "000+01:00")),
    "latin": document(entry("a"), head='<?xml version="1.0" encoding="iso-8859-1"?>'),
    "entities of its own": document(entry("a"), head='<!DOCTYPE r [<!ENTITY x "y">]>'),
    "torn": document(entry("a"), entry("b"))[:-150],
    "torn in the last": document(entry("a"), entry("b"))[:-60],
    "control character": document(entry("a\x01")),
    "no character": document(entry("a\uffff")),
    "end of a section": document(entry("a]]>b")),
    "unknown entity": document(entry("a&copy;b")),
    "other end": document(entry("a").replace("</Size>", "</size>")),
    "open element": document(entry("a", more="<Owner>"), entry("b")),
    "a page": b"<html><Contents>hello</Contents></html>",
}


@functools.cache
def botocore_parser() -> tuple[Any, Any]:
    session = botocore.session.get_session()
    operation = session.get_service_model("s3").operation_model("ListObjectsV2")
    return operation, session.get_component("response_parser_factory").create_parser("rest-xml")


def parse(body: bytes, *, quick: bool) -> Any:
    """Return what botocore makes of an answer, and what was taken out of it before."""
    operation, parser = botocore_parser()
    answer, taken = {"status_code": 200, "headers": {}, "body": body}, {}
    if quick:
        take_contents(response_dict=answer, customized_response_dict=taken, operation_model=operation)
    try:
        found = parser.parse(answer, operation.output_shape) | taken
    except Exception as error:
        return type(error), taken
    for item in found.get("Contents", ()):
        for name in item.keys() - set(FIELDS):
            del item[name]
    return found, taken


@pytest.mark.parametrize("name", SAME)
def test_what_is_taken_is_what_botocore_would_give(name: str) -> None:
    quick, taken = parse(SAME[name], quick=True)
    assert quick == parse(SAME[name], quick=False)[0]
    assert bool(taken) is (name != "none"), "taken, not left to botocore"


@pytest.mark.parametrize("name", LEFT)
def test_what_is_odd_fails_or_is_read_as_botocore_does(name: str) -> None:
    quick, taken = parse(LEFT[name], quick=True)
    assert quick == parse(LEFT[name], quick=False)[0]
    assert not taken or isinstance(quick, type), "what follows the entries is torn"


@pytest.mark.parametrize("more", ["", ALGORITHMS, "<StorageClass>STANDARD</StorageClass>"])
def test_plain_entries_need_no_parser(more: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(quick_listing, "_parse_any")
    text = "".join(entry(f"é/{n}", size=n, more=more) for n in range(20))
    found = quick_listing.parse_entries(text.encode())
    assert [(item["Key"], item["Size"], item["ETag"]) for item in found] == [
        (f"é/{n}", n, f'"{"0" * 32}"') for n in range(20)
    ]


def test_what_is_cut_is_what_the_parser_finds() -> None:
    chance = random.Random(3)
    pieces = [
        "a",
        "&quot;",
        "&amp;",
        "\n",
        "\r",
        " ",
        "<",
        ">",
        "]]>",
        "é",
        "\x02",
        "<b>c</b>",
        "<Key>d</Key>",
        "</Key>",
        "'",
    ]
    names = [*FIELDS, "Owner", "ChecksumType", "Contents"]
    taken = 0
    for _ in range(3000):
        parts = []
        for _ in range(chance.randrange(1, 4)):
            chosen = chance.sample(names, chance.randrange(5, len(names) + 1)) + chance.choices(
                names, k=chance.random() < 0.1
            )
            values = {"Size": "7", "LastModified": "2026-11-28T14:00:00.000Z"}
            inner = "".join(
                f"<{name}>{values.get(name) or ''.join(chance.choices(pieces, [150] + [1] * 14, k=3))}</{name}>"
                for name in chosen
            )
            parts.append(f"<Contents>{inner}</Contents>")
        text = chance.choice(["", "\n "]).join(parts)
        try:
            cut = quick_listing._cut_flat(text)
        except (ValueError, KeyError):
            continue
        taken += 1
        assert cut == quick_listing._parse_any(text.encode()), text
    assert taken > 300


def test_every_cut_of_an_answer_is_an_error_for_both() -> None:
    whole = document(entry("a"), entry("b", more=OWNER))
    for length in range(len(whole)):
        assert parse(whole[:length], quick=True)[0] == parse(whole[:length], quick=False)[0], length
    assert issubclass(parse(whole[:-1], quick=True)[0], botocore.parsers.ResponseParserError)


@pytest.mark.parametrize(
    ("status", "body"), [(500, SAME["one"]), (200, document(entry("a", more="<Key>b</Key>"))), (200, b"")]
)
def test_what_is_left_alone(status: int, body: bytes) -> None:
    answer, taken = {"status_code": status, "headers": {}, "body": body}, {}  # type: ignore[var-annotated]
    take_contents(operation_model=botocore_parser()[0], response_dict=answer, customized_response_dict=taken)
    assert (answer["body"], taken) == (body, {})


def test_another_operation_is_left_alone() -> None:
    operation = botocore.session.get_session().get_service_model("s3").operation_model("ListObjects")
    answer, taken = {"status_code": 200, "headers": {}, "body": SAME["one"]}, {}  # type: ignore[var-annotated]
    take_contents(operation_model=operation, response_dict=answer, customized_response_dict=taken)
    assert (answer["body"], taken) == (SAME["one"], {})


def test_a_page_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore's handlers see the body after its entries were taken out."""
    seen: list[bytes] = []

    def look(status: int, body: bytes) -> bool:
        seen.append(body)
        return False

    monkeypatch.setattr(botocore.handlers, "_looks_like_special_case_error", look)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    client = S3Requests(Target("bucket", "http://127.0.0.1:9")).client
    answer, taken = {"status_code": 200, "headers": {}, "body": SAME["one"]}, {}  # type: ignore[var-annotated]
    client.meta.events.emit(
        "before-parse.s3.ListObjectsV2",
        operation_model=botocore_parser()[0],
        response_dict=answer,
        customized_response_dict=taken,
    )
    assert taken["Contents"]
    assert seen == [answer["body"]]
    assert b"Contents" not in seen[0]
