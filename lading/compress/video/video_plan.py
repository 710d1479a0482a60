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
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lading.compress import zip_archive as zips
from lading.compress.file_copy import appear, compare, copy_verified, unfinished, working_directory
from lading.compress.generic.generic_plan import (
    add_password_options,
    list_files,
    note_of,
    password_of,
    planned_password,
)
from lading.compress.inventory import LEFT_OUT, Item
from lading.compress.job import (
    BlockDigest,
    CompressionJob,
    CompressionPlan,
    CompressionUnit,
    Measured,
    Output,
    Result,
    SourceFault,
    SourceFile,
    UnitRecord,
    digest,
)
from lading.compress.names import carried_name, find_clashes, rename_reserved, source_name
from lading.compress.sources import BLOCK, OpenFile, Source
from lading.compress.video import ffmpeg
from lading.core.errors import LadingError, UsageError


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
    group.add_argument(
        "--accept-damaged",
        action="store_true",
        help="copy videos that ffmpeg cannot transcode unchanged, and name them",
    )
    add_password_options(group)


def plan(job: CompressionJob) -> CompressionPlan:
    """Return one unit per file; ``SourceFault`` listing every name that two videos would share."""
    options = job.options
    preset = str(options.get("preset") or "default")
    if preset != "none":
        ffmpeg.arguments_of(preset, options.get("ffmpeg_arguments"))
        ffmpeg.find_ffmpeg()
    if not 1 <= int(options.get("ffmpeg_threads") or 1) <= 128:
        raise UsageError(f"--ffmpeg-threads {options['ffmpeg_threads']} is not a number from 1 to 128")
    password = secret(job)
    files = list_files(job.source)
    renamed = rename_reserved(source_name(job, path) for path, _ in files)
    planned = replace(job, facts={"renamed": renamed})
    source = Source(job.source)
    targets = [(source.locate(path), _target(planned, path)) for path, _ in files]
    if options.get("accept_damaged"):
        # Each may keep its own name.
        kept = [(source.locate(path), _target(planned, path, transcoded=False)) for path, _ in files]
        targets += [pair for pair in kept if pair not in targets]
    clashes = list(find_clashes(targets))
    videos = [os.path.basename(target) for _, target in targets if is_video(target.removesuffix(".zip"))]
    zips.refuse_names(videos, str(options.get("video_zip") or "no"))
    if clashes:
        raise SourceFault("\n".join(clashes))
    empty = [path for path, size in files if not size and is_video(path) and preset != "none"]
    if empty and not options.get("accept_damaged"):
        raise SourceFault(
            "\n".join(f"{source.locate(path)}: is empty (0 bytes); restore it or leave it out" for path in empty)
        )
    notice = [zips.LEGACY_WARNING] if options.get("video_zip") == "legacy" else []
    return CompressionPlan(
        tuple(
            CompressionUnit(f"video/{digest(path.encode('utf-8', 'surrogateescape'))}", size, {"file": path})
            for path, size in files
        ),
        {"notice": notice, "renamed": renamed, **note_of(password)},
    )


def secret(job: CompressionJob) -> str | None:
    """Return the password of the zips that a job makes, None where it makes none with a password."""
    return password_of(job.options, str(job.options.get("video_zip") or "no"))


def is_video(path: str) -> bool:
    """Tell by its suffix whether ffmpeg should see a file."""
    return os.path.splitext(path)[1].lower() in ffmpeg.SUFFIXES


def _target(job: CompressionJob, path: str, *, transcoded: bool = True) -> str:
    """Return the path of a file's output, relative to the destination; with its own name when not ``transcoded``."""
    name = carried_name(job, path)
    if not (is_video(name)):
        return name
    if transcoded and str(job.options.get("preset") or "default") != "none":
        name = os.path.splitext(name)[0] + ".mp4"
    return f"{name}.zip" if str(job.options.get("video_zip") or "no") != "no" else name


def estimate(job: CompressionJob) -> list[str]:
    """Return nothing: the outputs are as many as the files of the source, or one archive."""
    return []


def run(job: CompressionJob, unit: CompressionUnit) -> Result:
    """Transcode, zip, link or copy one file, and prove it."""
    path = str(unit.task["file"])
    target = job.output / _target(job, path)
    preset = str(job.options.get("preset") or "default")
    method = str(job.options.get("video_zip") or "no")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with Source.of(job) as source:
            if not is_video(path if path != "." else job.source.name) or (preset == "none" and method == "no"):
                with source.open(path) as file:
                    return _link(job, file, target)
            if preset == "none":
                return _zip(job, source, path, target, method)
            try:
                with source.open(path) as file:
                    return _transcode(job, file, target, preset, method)
            except SourceFault as error:
                if not job.options.get("accept_damaged"):
                    raise
                return _carry_damaged(job, source, path, method, str(error))
    except OSError as error:
        raise LadingError(
            f"{target}: cannot be written: {error.strerror or error}; make room there and run again"
        ) from error


def _carry_damaged(job: CompressionJob, source: Source, path: str, method: str, reason: str) -> Result:
    """Carry a video that ffmpeg does not take as it is, with the reason."""
    target = job.output / _target(job, path, transcoded=False)
    if method == "no":
        with source.open(path) as file:
            found = _link(job, file, target)
    else:
        found = _zip(job, source, path, target, method)
    return replace(found, detail={"damaged": reason})


def _zip(job: CompressionJob, source: Source, path: str, target: Path, method: str) -> Result:
    member = zips.ArchiveMember(path, os.path.basename(source_name(job, path)))
    password = planned_password(job, method)
    proof = zips.write_zip(source, [member], target, working_directory(job), method, password)
    checksums = (proof.checksum, proof.checksum)
    return _result(job, target, proof.archive, proof.sources[0], checksums, f"zip {method}", {})


def _transcode(job: CompressionJob, source: OpenFile, target: Path, preset: str, method: str) -> Result:
    program = ffmpeg.find_ffmpeg()
    arguments = ffmpeg.arguments_of(preset, job.options.get("ffmpeg_arguments"))
    before = _digest(source)
    streams = ffmpeg.find_streams(program, source.system_path())
    arguments = ffmpeg.fit(arguments, streams) if preset != "user" else arguments
    working = working_directory(job)
    # A directory of our own: a killed ffmpeg leaves its half file where nobody looks.
    with tempfile.TemporaryDirectory(dir=working) as directory:
        stem = os.path.splitext(os.path.basename(source.name))[0]
        made = Path(directory, f"{stem}.mp4")
        ffmpeg.transcode(program, source, made, arguments, int(job.options.get("ffmpeg_threads") or 1), streams)
        frames = ffmpeg.require_frames(program, source, made, streams)
        if preset != "user":
            ffmpeg.require_sizes(program, source, made, streams)
        source.require_unchanged()
        if _digest(source).sha256 != before.sha256:
            raise SourceFault(f"{source.name}: changed while it was transcoded; let its writer finish, then run again")
        with Source(Path(directory)) as here, here.open(made.name) as file:
            after = _digest(file)
        if method == "no":
            with open(made, "rb") as stream:
                os.fsync(stream.fileno())
            appear(made, target)
            archive = Measured(after.size, after.hash, after.sha256)
        else:
            password = planned_password(job, method)
            with Source(Path(directory)) as here:
                member = zips.ArchiveMember(made.name, made.name)
                archive = zips.write_zip(here, [member], target, working, method, password).archive
    codec = f"ffmpeg {preset}" + ("" if method == "no" else f", zip {method}")
    record = source.record(before.sha256, "transcoding is not lossless; preset none keeps videos as they are")
    left_out = [
        Item(source.path, str(stream), "an MP4 file cannot hold it; --preset none keeps the whole file")
        for stream in streams
        if not ffmpeg.is_kept(stream)
    ]
    detail = {
        "frames": frames[0],
        "frames_of_each": frames,
        "left_out": [item.encode(job.source.name) for item in left_out],
        "ffmpeg": ffmpeg.version(program),
    }
    return _result(job, target, archive, record, (before.hash, after.hash), codec, detail)


def _digest(file: OpenFile) -> BlockDigest:
    found = BlockDigest()
    for block in file.blocks():
        found.update(block)
    return found


def _link(job: CompressionJob, source: OpenFile, target: Path) -> Result:
    """Give the file a second name in the destination, or copy it to another file system."""
    working = working_directory(job)
    try:
        linked = _second_name(source, target, working)
    except OSError:
        linked = None
    found = linked or copy_verified(source, target, working)
    if linked:
        source.refresh()  # names that came and went are changes, too; a change of content shows when the job ends
    return _result(job, target, found, source.record(found.sha256), (found.hash, found.hash), "link", {})


def _second_name(source: OpenFile, target: Path, working: Path) -> Measured | None:
    """Link the very file that is open to ``target``; ``OSError`` where that cannot be, None where it came out other."""
    with unfinished(working) as partial:
        partial.unlink()
        # Through the descriptor: what the path leads to by now is not asked.
        directory = os.open(working, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Python follows the link in /proc, which stands for the file, only where a directory is given.
            os.link(source.system_path(), partial.name, dst_dir_fd=directory, follow_symlinks=True)
        finally:
            os.close(directory)
        if not os.path.samestat(os.stat(partial), os.fstat(source.descriptor)):
            return None
        # The link itself is a change of the file's state.
        source.refresh()
        with open(partial, "rb", buffering=0) as stream:
            found = compare(source, iter(lambda: stream.read(BLOCK), b""))
        if found is None:
            return None
        source.require_unchanged()
        appear(partial, target)
    return found


def _result(
    job: CompressionJob,
    target: Path,
    made: Measured,
    source: SourceFile,
    checksums: tuple[str, str],
    codec: str,
    detail: dict[str, Any],
) -> Result:
    output = Output(os.fspath(target.relative_to(job.output)), *made)
    return Result(source.size, made.size, *checksums, codec, (output,), detail, (source,))


def finish(job: CompressionJob, markers: Iterable[UnitRecord]) -> Mapping[str, Any]:
    """Return frames per video and the arguments that made them."""
    preset = str(job.options.get("preset") or "default")
    markers = list(markers)
    frames = {
        marker.result.outputs[0].path: marker.result.detail["frames"]
        for marker in markers
        if "frames" in marker.result.detail
    }
    arguments = [] if preset == "none" else ffmpeg.arguments_of(preset, job.options.get("ffmpeg_arguments"))
    kept = {marker.result.outputs[0].path: marker.result.detail for marker in markers}
    return {
        "preset": preset,
        "ffmpeg_arguments": arguments,
        "frames": frames,
        "frames_of_each": {
            path: detail["frames_of_each"] for path, detail in kept.items() if len(detail.get("frames_of_each", ())) > 1
        },
        "damaged": {path: detail["damaged"] for path, detail in kept.items() if "damaged" in detail},
        LEFT_OUT: [item for detail in kept.values() for item in detail.get("left_out", ())],
    }


def lossy(job: CompressionJob, file: OpenFile) -> str:
    """Return "": no file is read in parts."""
    return ""
