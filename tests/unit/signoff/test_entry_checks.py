"""What is wrong with one entry: names, modes, times, as the settings ask."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from lading.core.errors import UsageError
from lading.objectstore.capacity import OBJECT_BYTES
from lading.signoff.entry_checks import YEAR_1980, EntryChecks
from lading.signoff.fault_kinds import (
    BY_NAME,
    KINDS,
    ExpectedState,
    FaultLevel,
    SignoffRules,
    parse_freeze,
    parse_levels,
    parse_mode,
)

NOW = 1_800_000_000 * 10**9
ALL = parse_levels("all=error")


def checks(**expected: object) -> EntryChecks:
    return EntryChecks(SignoffRules(ExpectedState(**expected), ALL), NOW)  # type: ignore[arg-type]


def status(**more: int) -> os.stat_result:
    usual = {"st_mode": stat.S_IFREG | 0o644, "st_uid": 0, "st_gid": 0, "st_nlink": 1, "st_size": 10, "st_dev": 7}
    given: Mapping[str, int] = usual | {"st_mtime_ns": NOW - 10**15, "st_ctime_ns": NOW - 10**15, "st_blocks": 8} | more

    class Status:
        def __getattr__(self, name: str) -> int:
            return given[name]

    return Status()  # type: ignore[return-value]


def test_forty_kinds_and_more_each_with_a_default() -> None:
    assert len(BY_NAME) == len(KINDS) >= 40
    assert {kind.level for kind in KINDS} == set(FaultLevel)


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        ("a/spectra-0.fits.gz", []),
        ("a/nullable.txt", []),
        ("a/com10.txt", []),
        ("a/core.py", []),
        ("a/.x", ["hidden"]),
        ("a/core", ["leftover"]),
        ("a/core.123", ["leftover"]),
        ("a/x.swp", ["leftover"]),
        ("a/.nfs000000000001a2b3", ["hidden", "leftover"]),
        ("a/.x.fits.Ab12Cd", ["hidden", "leftover"]),
        ("a/nul", ["windows-name"]),
        ("a/Com1.txt", ["windows-name"]),
        ("a/x.", ["windows-ending"]),
        ("a/x ", ["outer-space", "windows-ending"]),
        ("a/x:y", ["windows-character"]),
        ("a/a\\b", ["avoided-character", "windows-character"]),
        ("a/x\x7f", ["control-character"]),
        ("a/x\u0085", ["control-character", "outer-space"]),
        ("a/\udcff", ["not-utf8"]),
        ("a/-x", ["leading-dash"]),
        ("a/e\u0301", ["not-composed"]),
        ("a/é", []),
        ("a/" + "x" * 250, ["windows-length"]),
        ("/".join(["x" * 200] * 6), ["long-key", "windows-length"]),
        ("é" * 510, ["windows-length"]),
        ("é" * 513, ["long-key", "windows-length"]),
    ],
)
def test_names(path: str, kinds: list[str]) -> None:
    assert sorted(kind for kind, _ in checks().name(path)) == kinds


def test_the_prefix_counts_for_the_length_of_a_key() -> None:
    assert [kind for kind, _ in checks(prefix="p" * 600 + "/").name("x" * 430)] == ["long-key", "windows-length"]


def test_names_that_collide() -> None:
    found = list(checks().names(["Map", "map", "MAP", "other", "Straße", "STRASSE", "e\u0301", "é"]))
    assert [(name, kind) for name, kind, _ in found] == [
        ("Map", "case-collision"),
        ("map", "case-collision"),
        ("Straße", "case-collision"),
        ("é", "unicode-collision"),
    ]


@pytest.mark.parametrize(
    ("expected", "more", "kinds"),
    [
        ({}, {}, ["owner-writable", "world-readable"]),
        ({"owner": 5, "group": 6}, {}, ["group", "owner", "owner-writable", "world-readable"]),
        ({"file_mode": 0o640}, {"st_mode": 0o100640}, ["not-world-readable", "owner-writable"]),
        ({"file_mode": 0o640}, {"st_mode": 0o100600}, ["file-mode", "not-world-readable", "owner-writable", "private"]),
        ({}, {"st_mode": 0o104555}, ["executable", "set-id", "world-readable"]),
        ({}, {"st_mode": 0o100466}, ["group-writable", "world-readable", "world-writable"]),
        ({}, {"st_size": 0}, ["empty-file", "owner-writable", "world-readable"]),
        ({}, {"st_nlink": 2, "st_blocks": 0}, ["hard-link", "owner-writable", "sparse", "world-readable"]),
        (
            {},
            {"st_size": OBJECT_BYTES + 1, "st_blocks": OBJECT_BYTES},
            ["owner-writable", "too-large", "world-readable"],
        ),
        ({}, {"st_mtime_ns": NOW + 10**12}, ["future", "owner-writable", "world-readable"]),
        ({}, {"st_mtime_ns": YEAR_1980 - 1}, ["no-time", "owner-writable", "world-readable"]),
        ({"freeze_ns": NOW - 10**16}, {}, ["newer-than-freeze", "owner-writable", "world-readable"]),
        (
            {"freeze_ns": NOW - 10**14},
            {"st_ctime_ns": NOW - 10**13},
            ["changed-after-freeze", "owner-writable", "world-readable"],
        ),
        (
            {},
            {"st_uid": 2_000_000_011, "st_gid": 2_000_000_012, "st_mode": 0o100444},
            ["unknown-group", "unknown-owner", "world-readable"],
        ),
    ],
)
def test_files(expected: dict[str, int], more: dict[str, int], kinds: list[str]) -> None:
    assert sorted(kind for kind, _ in checks(**expected).file(status(**more))) == kinds


def test_directories() -> None:
    held = checks(directory_mode=0o755, crowd=3)

    def kinds(entries: int, device: int = 7, **more: int) -> list[str]:
        return sorted(
            kind
            for kind, _ in held.directory(
                status(st_mode=stat.S_IFDIR | 0o755) if not more else status(**more), entries, device
            )
        )

    assert kinds(3) == ["owner-writable", "world-readable"]
    assert kinds(4, 8) == ["crowded", "mount", "owner-writable", "world-readable"]
    assert kinds(0, st_mode=stat.S_IFDIR | 0o700) == [
        "directory-mode", "empty-directory", "not-world-readable", "owner-writable", "private",
    ]  # fmt: skip


def test_what_is_off_is_not_looked_for() -> None:
    rules = SignoffRules(levels=parse_levels("all=off;hidden=note"))
    assert list(EntryChecks(rules).name("a/.tmp~")) == [("hidden", "")]
    assert rules.levels["unreadable"] is FaultLevel.ERROR


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hiden=off", "is not a check"),
        ("hidden", "is not KIND=off"),
        ("hidden=maybe", "is not KIND=off"),
        ("unreadable=off", "cannot be switched"),
    ],
)
def test_levels_that_make_no_sense(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_levels(text)


@pytest.mark.parametrize("text", ["", "rw", "8", "99999", "17777", "0o644"])
def test_modes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_mode(text)


def test_a_date_is_its_end() -> None:
    assert parse_freeze("1970-01-01") == 86400 * 10**9 - 1
    assert parse_freeze("1970-01-01T01:00:00+01:00") == 999
    with pytest.raises(UsageError, match="is not a date"):
        parse_freeze("yesterday")


def test_the_page_lists_every_check_with_its_default() -> None:
    rows = [
        f"| `{kind.name}` | {kind.group} | {kind.level} | {kind.meaning}"
        + (f" (needs `{kind.setting}`)" if kind.setting else "")
        + " |"
        for kind in KINDS
    ]
    page = (Path(__file__).resolve().parents[3] / "docs/reference/signoff.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith("| `")] == rows
