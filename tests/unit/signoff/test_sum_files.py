"""Checksum files in the forms that are found in releases, beside what ``sha256sum`` and ``md5sum`` make of them."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from lading.signoff.sum_files import SumClaim, SumFault, format_sum, is_sum_file, parse_sums

MD5, SHA = "d41d8cd98f00b204e9800998ecf8427e", hashlib.sha256(b"").hexdigest()
ROOT = "/data/dr1"


def parse(text: bytes, directory: str = "a/b", name: str = "SHA256SUMS") -> list[SumClaim | SumFault]:
    return list(parse_sums(directory, name, text.splitlines(keepends=True), ROOT))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("SHA256SUMS", True), ("SHA256SUMS.txt", True), ("md5sum.txt", True), ("MD5SUMS", True), ("sha256sum", True),
        ("x.sha256sum", True), ("x.fits.md5", True), ("x.sha256", True), ("redux_main.sha256sum", True),
        ("checksums.txt", True), ("dr1.checksum", True), ("manifest-sha256.txt", True), ("tagmanifest-md5.txt", True),
        ("checksums.md5", True), ("sha512sums", True), ("md5.txt", True), ("sha256sums-part1.txt", True),
        ("md5_table.fits", False), ("SHA256SUMS.asc", False), ("sum.txt", False), ("md5-lib.so", False),
        ("manifest.txt", False), ("x.md5.fits", False), ("notes.txt", False),
    ],
)  # fmt: skip
def test_names(name: str, wanted: bool) -> None:
    assert is_sum_file(name) is wanted


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (f"{SHA}  x.fits", "a/b/x.fits"),
        (f"{SHA} *x.fits", "a/b/x.fits"),
        (f"{SHA}  ./x.fits\r", "a/b/x.fits"),
        (f"{SHA.upper()}  c/x y.fits", "a/b/c/x y.fits"),
        (f"{SHA}  ../x.fits", "a/x.fits"),
        (f"{SHA}   lead", "a/b/ lead"),
        (f"SHA256 (x (1).fits) = {SHA}", "a/b/x (1).fits"),
        (f"SHA256(x.fits)= {SHA}", "a/b/x.fits"),
        (rf"\{SHA}  a\\b\nc", "a/b/a\\b\nc"),
        (rf"\SHA256 (a\nb) = {SHA}", "a/b/a\nb"),
        (rf"{SHA}  a\nb", "a/b/a\\nb"),
        (f"{SHA}\tx.fits", "a/b/x.fits"),
    ],
)
def test_forms_of_a_line(line: str, path: str) -> None:
    (claim,) = parse(line.encode() + b"\n")
    assert claim == SumClaim(path, "sha256", SHA, 1)


def test_bytes_that_are_no_utf8() -> None:
    (claim,) = parse(MD5.encode() + b"  caf\xe9.fits")
    assert claim == SumClaim("a/b/caf\udce9.fits", "md5", MD5, 1)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("hello", "sum-line"),
        (f"{SHA[:-1]}  x", "sum-line"),
        (f"SHA256 (x) = {MD5}", "sum-line"),
        (rf"\{SHA}  a\qb", "sum-line"),
        (rf"\{SHA}  ab" + "\\", "sum-line"),
        (f"{SHA}  ", "sum-line"),
        (f"{SHA}", "sum-line"),
        (f"{SHA}  a\0b", "sum-line"),
        (f"{'0' * 40}  x", "sum-algorithm"),
        (f"SHA512 (x) = {'0' * 128}", "sum-algorithm"),
        (f"{SHA}  ../../../x", "sum-outside"),
        (f"{SHA}  /etc/hostname", "sum-outside"),
        (f"{SHA}  ../..", "sum-outside"),
        (f"{SHA}  /data/dr10/x", "sum-outside"),
    ],
)
def test_faults_of_a_line(line: str, kind: str) -> None:
    (fault,) = parse(line.encode() + b"\n")
    assert isinstance(fault, SumFault)
    assert (fault.kind, fault.line) == (kind, 1)


def test_absolute_path_of_the_release() -> None:
    (claim,) = parse(f"{SHA}  {ROOT}/c/x".encode())
    assert claim == SumClaim("c/x", "sha256", SHA, 1, absolute=True)


def test_file_of_a_bare_digest() -> None:
    (claim,) = parse(MD5.encode() + b"\n", name="x.fits.md5")
    assert claim == SumClaim("a/b/x.fits", "md5", MD5, 1)


@pytest.mark.parametrize("text", [b"", b"\n", b"# made by hand\n\n"])
def test_file_that_names_nothing(text: bytes) -> None:
    assert parse(text) == [SumFault("sum-empty", 0, "")]


def test_comments_are_passed_over_and_lines_counted() -> None:
    found = parse(f"# sums\n\n{SHA}  x\n{MD5} *x\n".encode())
    assert [(claim.algorithm, claim.line) for claim in found if isinstance(claim, SumClaim)] == [
        ("sha256", 3),
        ("md5", 4),
    ]


@pytest.mark.parametrize("flags", [["sha256sum"], ["sha256sum", "--tag"], ["md5sum", "-b"], ["md5sum", "--tag"]])
def test_real_tools_and_odd_names(tmp_path: Path, flags: list[str]) -> None:
    """What the tools write is understood, and what we write is accepted by them."""
    names = [b"plain", b"sp ace", b"new\nline", b"back\\slash", b"r\rn", b" lead", b"caf\xc3\xa9", b"b\xe9", b"a) = b"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    text = subprocess.run([*flags, "--", *names], cwd=tmp_path, capture_output=True, check=True).stdout
    found = list(parse_sums("", "SUMS", text.splitlines(keepends=True), ROOT))
    kind = flags[0].removesuffix("sum")
    wanted = {(os.fsdecode(name), hashlib.new(kind, name).hexdigest()) for name in names}
    assert {(claim.path, claim.value) for claim in found if isinstance(claim, SumClaim)} == wanted
    sums = b"".join(format_sum(value, name) for name, value in sorted(wanted))
    subprocess.run([flags[0], "-c", "--strict"], cwd=tmp_path, input=sums, capture_output=True, check=True)
