"""A list of generated releases with one of each thing that can be wrong."""

import time
from pathlib import Path

from lading.report.fleet import FleetRelease
from lading.report.proof_age import DAY
from lading.testing.generated_fleets import done, failed, make_fleet, write_stage

SENTENCE = "12 objects failed: <script>alert(1)</script> s3://lab/" + "x" * 120


def plant(folders: list[FleetRelease], now: float, sentence: str) -> None:
    """One of each thing that can be wrong."""
    write_stage(folders[3].folder, failed("upload", now - 3600, 3, sentence, now - 2 * DAY))
    write_stage(folders[4].folder, failed("verify", now - 7200, 4, "3 objects are missing or different", now - 9 * DAY))
    late = {"objects": 1000.0, "size": 2e11, "objects_left": 12.0, "bytes_left": 3e8}
    write_stage(folders[5].folder, done("upload", now - 11 * DAY, late, 10**11))


def make_list(directory: Path, count: int, sentence: str = SENTENCE) -> Path:
    """A list of generated releases, three of them with troubles."""
    folders = make_fleet(directory / "folders", count)
    plant(folders, time.time(), sentence)
    lines = ["defaults: {root: /data, every: 1d, limits: {scrubbed: 200d}}", "releases:"]
    lines += [
        f"  - {{name: {found.name}, folder: folders/{found.name}, bucket: 's3://lab/{found.name}'}}"
        for found in folders
    ]
    path = directory / "releases.yaml"
    path.write_text("\n".join(lines) + "\n")
    log = directory / "releases.fleet" / "logs" / folders[3].name / "upload.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"upload  begins\nerror: {sentence}\nerror: {sentence}\x1b[2J\n")
    return path
