"""Commands that are right alone, one after the other: two releases in one bucket, withdrawals and second places."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import boto3
import pytest

from lading.cli.stage_record import is_of_copy
from lading.core.errors import ConsistencyError, LadingError
from lading.journal.journal_index import JournalIndex
from lading.journal.journal_writer import JournalWriter
from lading.journal.records import Withdrawal, encode_header, encode_withdrawal
from lading.mirror.source import ManifestPart, ManifestSource
from lading.testing.s3_server import Server
from lading.verification.manifest import (
    ManifestHeader,
    ManifestRow,
    WithdrawnObject,
    read_manifest,
    write_manifest,
)

MOMENT = "2026-11-28T00:00:00Z"


@dataclass
class Release:
    """A folder with the manifest of objects ``NAME/…`` at the top of a bucket that has others, too."""

    directory: Path
    server: Server
    bucket: str
    name: str

    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.server.endpoint)

    def put(self, *paths: str) -> None:
        """Put an object for each path, and write the manifest of them."""
        rows = []
        for path in sorted(paths):
            data = f"{self.name} {path}".encode()
            self.client().put_object(Bucket=self.bucket, Key=f"{self.name}/{path}", Body=data)
            md5, sha256 = hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest()
            about = path, f"{self.name}/{path}", len(data), 1, md5, sha256, md5, None
            rows.append(ManifestRow(*about, "etag", "b", MOMENT, verified_by="md5, sent"))
        header = ManifestHeader(self.bucket, "", self.server.endpoint, f"/data/{self.name}", "0" * 64, MOMENT, {})
        self.directory.mkdir(exist_ok=True)
        write_manifest(self.directory / "manifest.jsonl.zst", header, rows, complete=True)

    def lading(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "lading", *words],
            cwd=self.directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def keys(self, bucket: str | None = None) -> set[str]:
        listed = self.client().list_objects_v2(Bucket=bucket or self.bucket)
        return {item["Key"] for item in listed.get("Contents", ())}


@pytest.fixture
def releases(tmp_path: Path, s3: Server, bucket: str) -> tuple[Release, Release]:
    """Two releases below the top of one bucket."""
    s3.make_bucket(bucket)
    first, second = (Release(tmp_path / name, s3, bucket, name) for name in ("dr1", "dr2"))
    first.put("a", "sub/b")
    second.put("a", "c")
    return first, second


def test_one_release_does_not_replace_what_was_published_of_another(releases: tuple[Release, Release]) -> None:
    first, second = releases
    assert first.lading("publish").returncode == 0
    done = second.lading("publish")
    assert (done.returncode, "of another release, /data/dr1" in done.stderr) == (2, True), done.stderr
    there = first.client().get_object(Bucket=first.bucket, Key="_lading/manifest.jsonl.zst")["Body"].read()
    assert there == (first.directory / "manifest.jsonl.zst").read_bytes()
    advised = done.stderr.partition("give ")[2].partition(",")[0].split()
    assert advised == ["--to", f"s3://{first.bucket}/dr2/_lading"]
    done = second.lading("publish", *advised)
    assert done.returncode == 0, done.stderr
    for release in (second, first):
        done = release.lading("verify", "--manifest", "manifest.jsonl.zst")
        assert done.returncode == 0, done.stderr
    first.put("a", "sub/new")  # the release grew
    assert first.lading("publish").returncode == 0
    first.client().put_object(Bucket=first.bucket, Key="_lading/manifest.jsonl.zst.signed", Body=b"{}")
    done = first.lading("publish")
    assert (done.returncode, "signature of an earlier manifest" in done.stderr) == (4, True), done.stderr


def test_what_is_withdrawn_can_be_withdrawn_at_a_second_place(releases: tuple[Release, Release]) -> None:
    first, second = releases
    other = f"{first.bucket}-copy"
    first.server.make_bucket(other)
    for release in (first, second):
        done = release.lading("copy", "--to", f"s3://{other}", "--name", "archive")
        assert (done.returncode, "not in the manifest" in done.stdout) == (0, False), done.stdout
    (first.directory / "list").write_text("sub/b\n")
    (first.directory / "before").write_bytes((first.directory / "manifest.jsonl.zst").read_bytes())
    withdraw = ("withdraw", "list", "--reason", "consent")
    done = first.lading(*withdraw)
    assert (done.returncode, "withdraw them there: --place archive" in done.stderr) == (0, True), done.stderr
    done = first.lading("copy", "--to", f"s3://{other}", "--name", "archive")
    assert "1 object withdrawn at the first place is there still: dr1/sub/b; delete with" in done.stdout, done.stdout
    done = first.lading("verify", "--place", "archive")
    assert (done.returncode, "lading repair" in done.stderr, "lading withdraw" in done.stderr) == (4, False, True)
    assert not (first.directory / ".lading-stages" / "verify.json").exists(), "the release was not verified"
    done = first.lading(*withdraw, "--place", "archive")
    assert (done.returncode, "1 object deleted" in done.stdout) == (0, True), done.stderr
    assert first.keys(other) == {"dr1/a", "dr2/a", "dr2/c"}
    assert "1 object was withdrawn by the new manifest" in first.lading("diff", "before", "manifest.jsonl.zst").stdout
    assert first.lading("verify", "--place", "archive").returncode == 0
    done = first.lading(*withdraw, "--manifest", "manifest.archive.jsonl.zst")
    assert (done.returncode, "1 were withdrawn before" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    "line",
    [
        ("verify", "place=archive"),
        ("verify", "manifest=manifest.archive.jsonl.zst"),
        ("scrub", "manifest=manifest.archive.jsonl.zst"),
        ("restore", "from=archive", "to=back"),
        ("withdraw", "list=list", "reason=consent", "place=archive"),
    ],
)
def test_settings_of_the_first_place_are_not_of_the_second(
    tmp_path: Path, make: Callable[..., "subprocess.CompletedProcess[str]"], line: tuple[str, ...]
) -> None:
    """Where a second place is, its manifest says; an endpoint in config.mk is that of the bucket there."""
    (tmp_path / "config.mk").write_text("bucket ?= s3://first\nendpoint ?= http://first\naddressing_style ?= virtual\n")
    said = make(*line, print=1).stdout
    assert ("lading" in said, "first" in said.splitlines()[-1], "virtual" in said) == (True, False, False), said
    said = make(*line, "endpoint=http://given", print=1).stdout
    assert "--endpoint-url http://given" in said.splitlines()[-1], said
    with (tmp_path / "config.mk").open("a") as stream:
        stream.write("place ?= archive\nroot ?= .\n")  # what ``make copy`` writes
    said = make(*(word for word in line if word != "place=archive"), print=1).stdout
    assert ("lading" in said, "--place" in said) == (True, False), said
    said = make("verify", "manifest=manifest.jsonl.zst", print=1).stdout
    assert "--bucket s3://first --endpoint-url http://first --addressing-style virtual" in " ".join(said.split()), said


@pytest.mark.parametrize("complete", [True, False])
def test_a_manifest_of_a_part_is_never_called_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], complete: bool
) -> None:
    """Of a release that is not complete each command says so, since it does nothing about what is missing."""
    path, other = tmp_path / "manifest.jsonl.zst", tmp_path / "other.jsonl.zst"
    header = ManifestHeader("bucket", "", "http://127.0.0.1:9", "/data", "0" * 64, MOMENT, {})
    for one in (path, other):
        write_manifest(one, header, [], complete=complete or one == other)
    lines = {
        "restore": ["--to", str(tmp_path / "back"), "--manifest", str(path)],
        "copy": ["--to", str(tmp_path / "copy"), "--manifest", str(path)],
        "publish": ["--manifest", str(path)],
        "sign": ["--manifest", str(path), "--key", str(tmp_path / "key")],
        "export": ["csv", "-o", str(tmp_path / "out"), "--manifest", str(path)],
        "diff": [str(other), str(path)],
    }
    (tmp_path / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    for name, words in lines.items():
        main = import_module(f"lading.cli.{name}").main
        with suppress(LadingError):  # there is no bucket
            main(words)
        said = capsys.readouterr()
        assert ("not of a complete release" in said.out + said.err) is not complete, name


@pytest.mark.parametrize(
    ("line", "is_stage"),
    [
        ("verify /data --bucket s3://b", True),
        ("verify --place archive", False),
        ("verify --place=archive", False),
        ("scrub", True),
        ("scrub --manifest manifest.jsonl.zst", True),
        ("scrub --manifest /r/manifest.archive.jsonl.zst", False),
        ("scrub --manifest=manifest.archive.jsonl.zst", False),
    ],
)
def test_what_is_done_with_a_copy_is_no_stage_of_the_release(line: str, is_stage: bool) -> None:
    """Else a fleet takes the release for verified, or scrubbed, when its copy was."""
    name, *words = line.split()
    assert is_of_copy(name, words) is not is_stage


def test_journals_that_know_of_withdrawals_are_not_given_up_lightly(tmp_path: Path) -> None:
    """Whoever moves them away, as a message says, has withdrawn files sent again: it says that, too."""
    one = Withdrawal("dr1/a", "a", 1, "e", "0" * 64, None, "consent", MOMENT, (1, 1), done=True)
    for writer, records in (("one", [encode_withdrawal(one, 1)]), ("two", [])):
        directory = tmp_path / writer
        directory.mkdir()
        journal = JournalWriter(directory, writer, encode_header(writer, "s3://b/", None, "/data", MOMENT))
        journal.write(records)
        journal.close()
        with pytest.raises(ConsistencyError) as caught:
            JournalIndex(directory).check("s3://other/", None)
        assert ("1 file that was withdrawn would be sent again" in str(caught.value)) is bool(records)


def test_a_mirror_lets_go_of_what_was_withdrawn_from_a_part(tmp_path: Path) -> None:
    """A manifest of a part says nothing of what it lacks, but for what it names as withdrawn."""
    header = ManifestHeader("bucket", "", None, "/data", "0" * 64, MOMENT, {})
    gone = WithdrawnObject("sub/gone", "dr1/sub/gone", 1, "e", None, None, "consent", MOMENT)
    write_manifest(tmp_path / "manifest.jsonl.zst", header, [], complete=False, withdrawn=lambda: [gone])
    manifest = read_manifest(tmp_path / "manifest.jsonl.zst")
    source = ManifestSource(header, [ManifestPart(manifest, "session/")], {})
    assert (source.covers("session/sub/gone"), source.covers("session/sub/other")) == (True, False)
