"""Behaviour videos: transcoded by ffmpeg, zipped with a password, or as they are.

Input: a folder of videos and anything beside them. Output: each video as
``NAME.mp4`` (presets) and, when asked, inside a password zip of its own; every
other file linked into the destination, or copied where a link cannot be.
Invariant: a transcoded video decodes to as many frames as its source; zips
and copies give back their source byte by byte.
"""

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jobs.compress import ffmpeg, zips
from jobs.compress.base import Job, Marker, Output, Plan, Result, SourceFault, Unit, digest, digest_file
from jobs.compress.files import WORKING, copy_proven, sweep_working
from jobs.compress.generic import add_password_options, list_files, locate, password_of
from lading.errors import LadingError, UsageError
from lading.files import sync_directory


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``--kind video``."""
    group = parser.add_argument_group("video")
    group.add_argument(
        "--preset",
        choices=ffmpeg.PRESETS,
        default="default",
        help="gamma (= default): linear camera values through the curve of BT.709; gamma-fix: the same over wrong "
        "colour tags; no-gamma: values keep their curve; user: --ffmpeg-arguments; none: as it is",
    )
    group.add_argument("--ffmpeg-arguments", help="output arguments of preset user, as one string")
    group.add_argument(
        "--ffmpeg-threads", type=int, default=1, help="threads of one ffmpeg; default 1, a worker a core"
    )
    group.add_argument(
        "--video-zip", choices=("no", "aes", "legacy"), default="no", help="each video in a password zip"
    )
    add_password_options(group)


def plan(job: Job) -> Plan:
    """Return one unit per file; ``SourceFault`` listing every name that two videos would share."""
    options = job.options
    preset = str(options.get("preset") or "default")
    if preset != "none":
        ffmpeg.arguments_of(preset, options.get("ffmpeg_arguments"))
        ffmpeg.find_ffmpeg()
    if not 1 <= int(options.get("ffmpeg_threads") or 1) <= 128:
        raise UsageError(f"--ffmpeg-threads {options['ffmpeg_threads']} is not a number from 1 to 128")
    password_of(options, str(options.get("video_zip") or "no"))
    files = list_files(job.source)
    targets = Counter(_target(job, path) for path, _ in files)
    clashes = [path for path, _ in files if targets[_target(job, path)] > 1]
    if clashes:
        raise SourceFault(
            "\n".join(
                f"{job.source / path}: would be written as {_target(job, path)} like another file" for path in clashes
            )
        )
    empty = [path for path, size in files if not size and is_video(path) and preset != "none"]
    if empty:
        raise SourceFault(
            "\n".join(f"{locate(job, path)[0]}: is empty (0 bytes); restore it or leave it out" for path in empty)
        )
    notice = [zips.LEGACY_WARNING] if options.get("video_zip") == "legacy" else []
    return Plan(
        tuple(
            Unit(f"video/{digest(path.encode('utf-8', 'surrogateescape'))}", size, {"file": path})
            for path, size in files
        ),
        {"notice": notice},
    )


def is_video(path: str) -> bool:
    """Tell by its suffix whether ffmpeg should see a file."""
    return os.path.splitext(path)[1].lower() in ffmpeg.SUFFIXES


def _target(job: Job, path: str) -> str:
    """Return the path of a file's output, relative to the destination."""
    name = locate(job, path)[1]
    if not (is_video(name)):
        return name
    if str(job.options.get("preset") or "default") != "none":
        name = os.path.splitext(name)[0] + ".mp4"
    return f"{name}.zip" if str(job.options.get("video_zip") or "no") != "no" else name


def run(job: Job, unit: Unit) -> Result:
    """Transcode, zip, link or copy one file, and prove it."""
    source, name = locate(job, str(unit.task["file"]))
    target = job.output / _target(job, str(unit.task["file"]))
    preset = str(job.options.get("preset") or "default")
    method = str(job.options.get("video_zip") or "no")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not is_video(name) or (preset == "none" and method == "no"):
            return _link(job, source, target)
        if preset == "none":
            proof = zips.write_zip([zips.Member(source, source.name)], target, method, password_of(job.options, method))
            return _result(job, target, source, proof.checksum, proof.checksum, f"zip {method}", {})
        return _transcode(job, source, target, preset, method)
    except OSError as error:
        raise LadingError(
            f"{target}: cannot be written: {error.strerror or error}; make room there and run again"
        ) from error


def _transcode(job: Job, source: Path, target: Path, preset: str, method: str) -> Result:
    program = ffmpeg.find_ffmpeg()
    arguments = ffmpeg.arguments_of(preset, job.options.get("ffmpeg_arguments"))
    before = digest_file(source)
    # A name of our own in a directory of our own: a killed ffmpeg leaves its half file where nobody looks.
    with tempfile.TemporaryDirectory(prefix=WORKING, dir=target.parent) as directory:
        made = Path(directory, Path(source.name).stem + ".mp4")
        ffmpeg.transcode(program, source, made, arguments, int(job.options.get("ffmpeg_threads") or 1))
        frames = ffmpeg.require_frames(program, source, made)
        if digest_file(source) != before:
            raise SourceFault(f"{source}: changed while it was transcoded; let its writer finish, then run again")
        after = digest_file(made)
        if method == "no":
            with open(made, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(made, target)
            sync_directory(target.parent)
        else:
            zips.write_zip([zips.Member(made, made.name)], target, method, password_of(job.options, method))
    codec = f"ffmpeg {preset}" + ("" if method == "no" else f", zip {method}")
    return _result(job, target, source, before, after, codec, {"frames": frames, "ffmpeg": ffmpeg.version(program)})


def _link(job: Job, source: Path, target: Path) -> Result:
    """Give the file a second name in the destination, or copy it to another file system."""
    try:
        if target.exists() and target.samefile(source):
            target.unlink()
        os.link(source.resolve(), target)
    except OSError:
        copy_proven(source, target)
    checksum = digest_file(target)
    return _result(job, target, source, checksum, checksum, "link", {})


def _result(
    job: Job, target: Path, source: Path, before: str, after: str, codec: str, detail: dict[str, Any]
) -> Result:
    size = target.stat().st_size
    output = Output(os.fspath(target.relative_to(job.output)), size, digest_file(target))
    return Result(source.stat().st_size, size, before, after, codec, (output,), detail)


def finish(job: Job, markers: Iterable[Marker]) -> Mapping[str, Any]:
    """Return frames per video and the arguments that made them."""
    sweep_working(job.output)
    preset = str(job.options.get("preset") or "default")
    frames = {
        marker.result.outputs[0].path: marker.result.detail["frames"]
        for marker in markers
        if "frames" in marker.result.detail
    }
    arguments = [] if preset == "none" else ffmpeg.arguments_of(preset, job.options.get("ffmpeg_arguments"))
    return {"preset": preset, "ffmpeg_arguments": arguments, "frames": frames}
