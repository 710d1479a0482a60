"""The list of releases: what it says, and every error of it at once, with its place."""

from pathlib import Path

import pytest

from lading.core.errors import UsageError
from lading.report.proof_age import DAY
from lading.report.release_list import read_releases

GOOD = """
at_once: 3
bandwidth: 08:00,200M;19:00,off
notify: [env:FLEET_MAIL]
digest: mon 08:00
defaults:
  root: /data
  every: 1d
  after: "22:00"
  limits: {locked: 12h}
releases:
  - name: dr1
    folder: dr1
    bucket: s3://lab
    prefix: dr1/
  - name: dr2
    folder: /scratch/dr2
    bucket: s3://lab/dr2
    after: 23:30
    stages: [find, batch, upload, verify, scrub, mirror]
    every: {scrub: 7d, upload: 2d}
    flags: {upload: [--engine, boto3]}
    limits: {late: 36h, scrubbed: 200d, bandwidth: 100M}
    contacts: [data@lab.org]
"""

BAD = """
at_once: 0
colour: red
defaults:
  every: soon
releases:
  - name: dr 1
    folder: dr1
    bucket: http://lab
    root: data
  - name: dr2
    folder: dr2
    root: /data
    bucket: s3://lab
    limits:
      late: 36h
      laet: 3
  - folder: dr2
    stages: [upload, fly]
    root: /data
    bucket: s3://lab
"""


def write(directory: Path, text: str, name: str = "releases.yaml") -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_list(tmp_path: Path) -> None:
    found = read_releases(write(tmp_path, GOOD))
    first, second = found.releases
    assert found.home == tmp_path / "releases.fleet"
    assert (first.folder, first.place, first.after, first.limits.locked) == (
        tmp_path / "dr1", "s3://lab/dr1", 22 * 60, 12 * 3600,
    )  # fmt: skip
    assert (second.folder, second.place, second.after) == (Path("/scratch/dr2"), "s3://lab/dr2", 23 * 60 + 30)
    assert [second.period(stage) for stage in ("find", "upload", "scrub", "mirror")] == [DAY, 2 * DAY, 7 * DAY, None]
    assert found.look()[0].limits.late == dict.fromkeys(("find", "batch", "upload", "verify"), 2 * DAY)
    looked = found.look({"dr2": 5.0})[1]
    assert looked.limits.late == dict.fromkeys(("find", "batch", "upload", "verify"), 1.5 * DAY)
    assert (looked.limits.scrubbed, looked.contacts, looked.since) == (200 * DAY, ("data@lab.org",), 5.0)
    assert [entry.name for entry in found.only(["dr2"]).releases] == ["dr2"]
    with pytest.raises(UsageError, match="dr3 is not a release"):
        found.only(["dr3"])


def test_every_error_at_once_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, BAD)
    with pytest.raises(UsageError) as caught:
        read_releases(path)
    lines = str(caught.value).splitlines()
    assert f"{path}, line 2, column 1: at_once: input should be greater than or equal to 1" in lines
    assert f"{path}, line 3, column 1: unknown key colour; docs/reference/fleet.md lists the keys" in lines


def test_every_error_of_the_releases(tmp_path: Path) -> None:
    path = write(tmp_path, BAD.replace("at_once: 0\ncolour: red\n", ""))
    with pytest.raises(UsageError) as caught:
        read_releases(path)
    lines = str(caught.value).splitlines()
    for sentence in (
        "line 3, column 3: every: 'soon' is not a duration; write it like 90s, 45m, 8h or 2d",
        "line 5, column 5: name: must be letters",
        "line 7, column 5: bucket: 'http://lab' is not a bucket",
        "line 15, column 7: unknown key limits.laet",
        "line 16, column 5: name is missing",
        "line 17, column 22: stages.1: input should be",
    ):
        assert any(sentence in line for line in lines), (sentence, lines)
    assert sum("soon" in line for line in lines) == 1  # of the defaults: said once


def test_names_and_folders_are_unique(tmp_path: Path) -> None:
    path = write(tmp_path, "releases: [{name: a, folder: x, stages: []}, {name: a, folder: ./x, stages: []}]")
    with pytest.raises(UsageError, match=r"name a is given.*\n.*folder .*/x is given"):
        read_releases(path)


def test_a_directory(tmp_path: Path) -> None:
    write(tmp_path, "defaults: {root: /data, every: 1d}\nat_once: 5\n", "fleet.yaml")
    write(tmp_path, "bucket: s3://lab/a\n", "a/release.yaml")
    write(tmp_path, "", "b/find.meta.json")
    write(tmp_path, "", "c/letter.txt")
    write(tmp_path, "", ".hidden/batch.json")
    found = read_releases(tmp_path)
    assert [(entry.name, entry.stages[:1]) for entry in found.releases] == [("a", ("find",)), ("b", ())]
    assert found.releases[0].folder == tmp_path / "a"
    assert (found.shared.at_once, found.home) == (5, tmp_path / ".fleet")
    write(tmp_path, "buckt: s3://lab/a\n", "a/release.yaml")
    with pytest.raises(UsageError, match=r"a/release.yaml, line 1, column 1: unknown key buckt"):
        read_releases(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a\n", "line 1: must be a mapping"),
        ("a: &x 1\nb: *x\n", "the alias *x is not supported"),
        ("a: [\n", "not YAML"),
        ("digest: someday 25:00\n", "is not a day and a time"),
        ("name: 1\nname: 2\n", "line 2: name is given twice"),
    ],
)
def test_what_is_no_list(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_releases(write(tmp_path, text))
    assert sentence in str(caught.value)


def test_a_missing_list(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lading fleet add makes one"):
        read_releases(tmp_path / "releases.yaml")


def test_long_lists_are_read_by_the_compiled_loader_alike(tmp_path: Path) -> None:
    many = "defaults: {root: /data}\nreleases:\n" + "".join(
        f"  - {{name: r{number}, folder: r{number}, bucket: s3://lab}}\n" for number in range(3000)
    )
    found = read_releases(write(tmp_path, many))
    assert len(found.releases) == 3000
    with pytest.raises(UsageError, match="line 3002, column 19: folder"):
        read_releases(write(tmp_path, many.replace("folder: r2999", "folder: 7")))
