"""What objects are stored with: each setting by pattern, every error at once."""

from argparse import ArgumentParser
from typing import Any

import numpy as np
import pytest

from lading.core.errors import UsageError
from lading.objectstore.manner import (
    Manner,
    add_payer_argument,
    add_reading_arguments,
    add_writing_arguments,
    read_manner,
    refuse_engine,
)
from lading.plan.class_prices import TABLE, all_costs, cheapest, describe_cheapest, read_table, thaw_cost
from lading.plan.object_settings import ObjectSettings, add_object_arguments, read_object_settings


def read(**settings: str) -> tuple[ObjectSettings, list[str]]:
    parser = ArgumentParser()
    add_object_arguments(parser)
    flags = [word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), value)]
    return read_object_settings(parser.parse_args(flags))


def test_the_first_pattern_that_matches_decides() -> None:
    objects, errors = read(
        storage_class="STANDARD_IA;*.fits.fz=GLACIER_IR;raw/*=DEEP_ARCHIVE",
        tags='{"*.fits.fz": {"tier": "cold"}, "*": {"tier": "warm", "of": "dr1"}}',
        metadata="Survey=desi, note=a=b",
        cache_control="*.html=no-cache;public, max-age=60",
        content_type=r"*.txt=text/plain\; charset=utf-8;*.fits=application/fits",
    )
    assert errors == []
    fits, raw, other = (objects.attributes(path) for path in ("raw/a.fits.fz", "raw/deep/a.bin", "x/page.html"))
    assert (fits.storage_class, raw.storage_class, other.storage_class) == ("GLACIER_IR", "DEEP_ARCHIVE", "STANDARD_IA")
    assert (fits.tagging, other.tagging) == ("tier=cold", "tier=warm&of=dr1")
    assert fits.metadata == (("survey", "desi"), ("note", "a=b"))
    assert (other.cache_control, fits.cache_control) == ("no-cache", "public, max-age=60")
    assert objects.content_type("a/b.txt") == "text/plain; charset=utf-8"
    assert objects.content_type("a/b.bin") is None
    assert objects.describe()["storage_class"] == {
        "*.fits.fz": "GLACIER_IR",
        "raw/*": "DEEP_ARCHIVE",
        "*": "STANDARD_IA",
    }
    plain, _ = read()
    assert plain.is_plain
    assert plain.attributes("a").parameters() == {}


def test_every_error_is_one_sentence_and_all_come_at_once() -> None:
    objects, errors = read(
        storage_class="*.fits=GLACIR;*.raw=other:COLD;NOT A CLASS",
        tags=",".join(f"t{n}=v" for n in range(11)),
        metadata="name=ä",
        cache_control="{not json",
        content_type="*.fits=fits",
    )
    assert len(errors) == 6, errors
    assert all("\n" not in error for error in errors)
    assert "'GLACIR' is not a class of Amazon S3; did you mean GLACIER?" in errors[0]
    assert "one of STANDARD, INTELLIGENT_TIERING" in errors[1]
    assert "11 tags on one object, and S3 takes 10" in errors[2]
    assert "printable ASCII" in errors[3]
    assert "cache_control is not JSON" in errors[4]
    assert "'fits' is not a content type" in errors[5]
    assert objects.attributes("a.raw").storage_class == "COLD", "a class that only the user's own server knows"


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ("k" * 129 + "=v", "has 129 characters, and S3 takes 1 to 128"),
        ("k=" + "v" * 257, "has 257 characters, and S3 takes 256"),
        ("aws:own=v", "begins with aws:"),
        ("k=a<b", "has a sign that S3 takes in no tag"),
        ("k", "'k' has no '='"),
        ("k=1,k=2", "'k' is given twice"),
        ('{"*": []}', "is not a set of tags"),
    ],
)
def test_tags_above_the_limits_of_s3_are_refused(tags: str, said: str) -> None:
    _, errors = read(tags=tags)
    assert len(errors) == 1
    assert said in errors[0]


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("name=" + "v" * 2045, "2,049 bytes of metadata on one object, and S3 takes 2,048"),
        ("na me=v", "is not a header's name"),
        ("Name=1,name=2", "differ in capitals only"),
        ('{"name": "line\\nbreak"}', "is not a header's"),
    ],
)
def test_metadata_that_cannot_be_is_refused(metadata: str, said: str) -> None:
    _, errors = read(metadata=metadata)
    assert len(errors) == 1
    assert said in errors[0]


def test_a_pattern_that_takes_nothing_is_named() -> None:
    objects, errors = read(storage_class="*.fits=GLACIER;*.fts=GLACIER", content_type="a/*=x/y;b/*=x/y")
    assert not errors
    found = objects.find_unmatched(iter(["a/1.fits", "c/2.txt"]))
    assert [text.partition("takes")[0] for text in found] == [
        "storage_class: the pattern '*.fts' ",
        "content_type: the pattern 'b/*' ",
    ]
    assert objects.find_unmatched(["a/1.fits", "b/2.fts"]) == []


def read_flags(*flags: str) -> Any:
    parser = ArgumentParser()
    add_reading_arguments(parser)
    add_payer_argument(parser)
    add_writing_arguments(parser)
    return read_manner(parser.parse_args(flags))


def test_what_concerns_each_request_is_checked_together() -> None:
    with pytest.raises(UsageError) as caught:
        read_flags("--sse", "AES128", "--checksum-algorithm", "MD5", "--request-payer", "--no-sign-request")
    assert len(str(caught.value).splitlines()) == 3
    assert read_flags("--checksum-algorithm", "sha256", "--request-payer") == Manner(checksum="SHA256", payer=True)


def test_an_engine_that_was_named_is_refused_by_name() -> None:
    assert refuse_engine("s5cmd", Manner(), tags=True) == (
        "s5cmd cannot send --tags; say --engine=crt, or leave --engine out"
    )
    assert "obstore cannot send --checksum-algorithm=CRC32" in (
        refuse_engine("obstore", Manner(checksum="CRC32"), False) or ""
    )
    assert refuse_engine("obstore", Manner(checksum="CRC64NVME"), tags=True) is None
    assert refuse_engine("boto3", Manner(checksum="SHA1"), tags=True) is None
    assert refuse_engine("", Manner(checksum="SHA1"), tags=True) is None, "none was named: one that can is taken"


def test_the_minimum_size_and_what_lies_beside_decide_for_small_files() -> None:
    small = all_costs(TABLE, np.full(10**6, 20_000), 10**6, 2000)
    cost = {one.name: one for one in small}
    assert cost["STANDARD"].month == pytest.approx(20 * 0.023)
    assert cost["STANDARD_IA"].month == pytest.approx(131.072 * 0.0125), "each is billed as 128 KiB"
    assert cost["GLACIER"].month == pytest.approx((20 + 32.768) * 0.0036 + 8.192 * 0.023)
    assert cost["DEEP_ARCHIVE"].upload == pytest.approx(50 + 2 * 0.005)
    assert describe_cheapest(small) == "STANDARD, however often it is read"


def test_how_often_it_is_read_decides_for_large_files() -> None:
    large = [one for one in all_costs(TABLE, np.full(1000, 10**9), 20_000, 2) if not one.archived]
    ranges = cheapest(large)
    assert [name for name, _ in ranges] == ["GLACIER_IR", "ONEZONE_IA", "STANDARD"]
    cost = {one.name: one for one in large}
    for name, most in ranges[:-1]:
        assert all(cost[name].year(most * 0.98) <= other.year(most * 0.98) for other in large)
    tiering = cost["INTELLIGENT_TIERING"]
    assert tiering.year(0) < tiering.year(2) < tiering.year(12)
    assert tiering.year(0) == pytest.approx(0.1 + 23 + 2 * 12.5 + 9 * 4, abs=0.05)


def test_prices_can_be_overridden_and_errors_are_told_together() -> None:
    table = read_table('{"GLACIER": {"storage": 1, "least_days": 30}}')
    assert (table["GLACIER"].storage, table["GLACIER"].least_days) == (1.0, 30)
    assert table["STANDARD"] == TABLE["STANDARD"]
    assert thaw_cost(TABLE, "GLACIER", "Standard", 1000, 10**12, 30) == pytest.approx(10 + 0.05 + 23)
    with pytest.raises(UsageError) as caught:
        read_table('{"GLACIER": {"storrage": 1, "get": -1}, "COLD": {}}')
    assert len(str(caught.value).splitlines()) == 3
