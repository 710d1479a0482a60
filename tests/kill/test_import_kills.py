"""Import and mirror of a DANDI archive, killed at twenty points, and twice at once: the end is the same."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.mirrors import git
from tests.servers.dandi import Archive, serve

POINTS = 20
SETTINGS = "datasets: {path: datasets}\nzarrs: {path: datasets}\nmanifest: manifests\n"


def _fill(archive: Archive) -> None:
    for number in range(3, 7):
        archive.add(f"{number:06d}", generated=12)
    archive.put("000004", "a/x.ome.zarr", zarr=40)
    archive.publish("000003", "0.1")
    archive.remove("000003", "sub-000/sub-000_ses-00003_ecephys.nwb")


class Runs:
    """Commands in a directory of their own."""

    def __init__(self, archive: Archive, directory: Path) -> None:
        directory.mkdir()
        (directory / "mirror.yaml").write_text(SETTINGS)
        self.directory = directory
        source = ("import", f"dandi+{archive.api}", "-c", "mirror.yaml", "--endpoint-url", archive.url)
        self.commands = ((*source, "--no-sign-request"), ("mirror", "-c", "mirror.yaml", "update"))

    def start(self, words: tuple[str, ...]) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "lading", *words],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> float:
        begun = time.monotonic()
        for words in self.commands:
            process = self.start(words)
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said
        return time.monotonic() - begun

    def result(self) -> dict[str, object]:
        """Every branch and tag of every dataset, and what the superdataset says; its history may have more steps."""
        store = self.directory / "datasets"
        top = (store / "alias" / "super").resolve()
        records = json.loads(git("show", "main:.mirror/datasets.json", cwd=top))
        found: dict[str, object] = {"records": records["datasets"], "modules": git("show", "main:.gitmodules", cwd=top)}
        for where in sorted(store.glob("???/*")):
            assert git("fsck", "--strict", "--no-dangling", cwd=where) is not None
            if where.resolve() != top:
                found[where.name] = git("for-each-ref", cwd=where)
        return found


@pytest.mark.long
def test_killed_at_twenty_points(tmp_path: Path) -> None:
    need_program("git-annex")
    archive = Archive()
    _fill(archive)
    with serve(archive):
        plain = Runs(archive, tmp_path / "plain")
        seconds = plain.finish()
        killed = Runs(archive, tmp_path / "killed")
        hits = 0
        for point in range(POINTS):
            words = killed.commands[point % 2]
            process = killed.start(words)
            try:
                process.communicate(timeout=0.2 + seconds / 2 * (point + 1) / POINTS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                hits += 1
        assert hits, "no run was slow enough to be killed"
        killed.finish()
        assert killed.result() == plain.result()


@pytest.mark.long
def test_two_crons_at_once(tmp_path: Path) -> None:
    need_program("git-annex")
    archive = Archive()
    _fill(archive)
    with serve(archive):
        runs = Runs(archive, tmp_path / "twice")
        for words in runs.commands:
            pair = [runs.start(words), runs.start(words)]
            said = [process.communicate(timeout=300)[0] for process in pair]
            codes = sorted(process.returncode for process in pair)
            # The second did nothing, or came when the first was done.
            assert codes in ([0, 0], [0, os.EX_TEMPFAIL]), said
        plain = Runs(archive, tmp_path / "plain")
        plain.finish()
        assert runs.result() == plain.result()
