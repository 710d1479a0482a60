"""Run ffmpeg: which program, which presets, and what its output proves.

Input: a video file and a preset. Output: an MP4 file (H.264), or a sentence.
Invariant: only this module runs ffmpeg; arguments are a list, a file name is
never an option (``file:`` before it); ffmpeg opens the source through its
open descriptor, never by its path; a transcoded file counts when it decodes
without an error to as many frames as its source.
"""

import functools
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lading.compress.job import SourceFault, VerificationFailed
from lading.compress.sources import OpenFile
from lading.core import extras
from lading.core.errors import LadingError, UsageError
from lading.core.progress import counted

SUFFIXES = (".mp4", ".mov", ".avi", ".wmv", ".mkv", ".m4v", ".webm", ".mpg", ".mpeg", ".mts")
PRESETS = ("default", "gamma", "gamma-fix", "no-gamma", "user", "none")

# Before it, frames could not be kept at their own times by this name, and linear light was refused.
_WANTED = (5, 1)
_TEXT_SUBTITLES = ("subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text")
_PAD = "pad=ceil(iw/2)*2:ceil(ih/2)*2"
_QUIET = ["-nostdin", "-hide_banner", "-v", "error", "-xerror"]
# H.264 at constant quality 18 is visually lossless, slow presets keep more detail per bit, and 8-bit 4:2:0
# plays everywhere.
_ENCODE = ["-c:v", "libx264", "-preset", "veryslow", "-crf", "18", "-pix_fmt", "yuv420p"]
# Say in the stream and in the container what the colours are (ITU-R BT.709), so that no player guesses.
_TAGS = ["-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709", "-color_range", "tv"]
_CONTAINER = ["-movflags", "+faststart+write_colr"]
# A machine-vision camera counts photons: its values are linear in light, at full range. 8 bits hold dark parts
# better after the transfer curve of BT.709 (the scene-referred one, item 1.2 of the recommendation). The curve is
# applied at 12 bits.
_LINEAR = "setparams=color_primaries=bt709:color_trc=linear:colorspace=bt709:range=pc"
_WIDE = "scale=out_color_matrix=bt709:out_range=pc:sws_dither=none,format=yuv444p12"
_CURVE = "colorspace=all=bt709:range=tv:format=yuv420p:dither=none"
_FILTERS = {
    # Linear input whose range and matrix are tagged right or that is grey or RGB.
    "gamma": f"{_WIDE},{_LINEAR},{_CURVE}",
    # Linear YUV input whose tags are missing or wrong: overruled first.
    "gamma-fix": f"{_LINEAR},{_WIDE},{_LINEAR},{_CURVE}",
    # Input that went through a transfer curve in the camera.
    "no-gamma": "scale=out_color_matrix=bt709:out_range=tv:sws_dither=none,format=yuv420p",
}


def find_ffmpeg() -> str:
    """Return the ffmpeg on PATH; that of the imageio-ffmpeg wheel when there is none, or one that is too old for us.

    ``UsageError`` when there is neither.
    """
    found = shutil.which("ffmpeg")
    if found and _version_of(found) >= _WANTED:
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        if found:
            return found
        raise UsageError(
            f"no ffmpeg on PATH: load the ffmpeg module; or {extras.describe('imageio_ffmpeg', 'video')}"
        ) from error


@functools.cache
def _version_of(program: str) -> tuple[int, int]:
    """Return major and minor version; a build without a number is of a later development."""
    found = re.match(r"ffmpeg version n?(\d+)\.(\d+)", version(program))
    return (int(found[1]), int(found[2])) if found else (99, 0)


def _passthrough(program: str) -> list[str]:
    """Return the arguments by which every frame is kept once, at its own time: also where the rate varies."""
    return ["-fps_mode", "passthrough"] if _version_of(program) >= _WANTED else ["-vsync", "passthrough"]


@dataclass(frozen=True)
class MediaStream:
    """One stream of a file: its number, what it is (``Video``, ``Audio``, ``Subtitle`` …), its codec and its frame."""

    number: int
    kind: str
    codec: str
    size: tuple[int, int] | None = None
    picture: bool = False  # a cover or thumbnail

    def __str__(self) -> str:
        return f"stream {self.number} ({self.kind.lower()}, {self.codec})"


def find_streams(program: str, path: str | Path) -> list[MediaStream]:
    """Return the streams that ffmpeg sees in a file; none where it sees no media file."""
    text = _run([program, "-nostdin", "-hide_banner", "-i", f"file:{path}"]).stderr
    streams = []
    # By its two leading spaces: titles and comments of the file are deeper.
    for number, kind, about in re.findall(r"^  Stream #0:(\d+)\S*: (\w+): ([^\n]*)", text, re.M):
        size = re.search(r"\b(\d{1,5})x(\d{1,5})\b", about) if kind == "Video" else None
        codec = about.split(",")[0].split(" ")[0]
        picture = "(attached pic)" in about or "(still image)" in about or "(timed thumbnails)" in about
        streams.append(MediaStream(int(number), kind, codec, (int(size[1]), int(size[2])) if size else None, picture))
    return streams


def is_kept(stream: MediaStream) -> bool:
    """Tell whether a transcoded file has a stream: each video and sound, and subtitles of text."""
    if stream.kind == "Subtitle":
        return stream.codec in _TEXT_SUBTITLES
    return stream.kind == "Audio" or (stream.kind == "Video" and not stream.picture)


def arguments_of(preset: str, user: str | None) -> list[str]:
    """Return ffmpeg's output arguments for a preset; ``user`` is what preset ``user`` passes on."""
    if preset == "user":
        try:
            words = shlex.split(user or "")
        except ValueError as error:
            raise UsageError(f"--ffmpeg-arguments {user!r}: {error}") from error
        if not words:
            raise UsageError("preset user needs --ffmpeg-arguments, for example '-c:v libx264 -crf 20'")
        return words
    name = "gamma" if preset == "default" else preset
    return ["-vf", _FILTERS[name], *_ENCODE, *_TAGS, *_CONTAINER]


def fit(arguments: list[str], streams: list[MediaStream]) -> list[str]:
    """Return a preset's arguments for these streams: odd frames get a black column or row, for 4:2:0 has even ones."""
    odd = any(size % 2 for stream in streams if is_kept(stream) and stream.size for size in stream.size)
    if not odd or "-vf" not in arguments:
        return arguments
    at = arguments.index("-vf") + 1
    return [*arguments[:at], f"{_PAD},{arguments[at]}", *arguments[at + 1 :]]


def transcode(
    program: str, source: OpenFile, target: Path, arguments: list[str], threads: int, streams: list[MediaStream]
) -> None:
    """Write ``target`` (MP4) from the streams of ``source`` that are kept.

    Raises ``SourceFault`` when the source cannot be decoded, ``LadingError``
    when the output cannot be written.
    """
    output = [*_passthrough(program), *arguments, "-threads", str(threads), "-f", "mp4", f"file:{target}"]
    path = source.system_path()
    maps = [word for stream in streams if is_kept(stream) for word in ("-map", f"0:{stream.number}")]
    maps = maps if any(stream.kind == "Video" for stream in streams) else ["-map", "0:v:0", "-map", "0:a?"]
    if any(stream.kind == "Subtitle" and is_kept(stream) for stream in streams):
        maps += ["-c:s", "mov_text"]
    result = _run([program, *_QUIET, "-y", "-i", f"file:{path}", *maps, *output])
    if result.returncode:
        reason = _reason(result.stderr.replace(path, source.name))
        if "No space left" in reason:
            raise LadingError(f"{target}: cannot be written: {reason}; make room there and run again")
        raise SourceFault(
            f"{source.name}: ffmpeg cannot transcode it: {reason}; restore it, or copy it unchanged with --preset none "
            "(all videos) or --accept-damaged (damaged ones)"
        )


def count_frames(program: str, path: str | Path, stream: str = "v:0") -> int:
    """Decode a video stream of ``path`` and return its frames; ``ValueError`` in ffmpeg's words."""
    sink = [*_passthrough(program), "-progress", "pipe:1", "-f", "null", "-"]
    result = _run([program, *_QUIET, "-err_detect", "explode", "-i", f"file:{path}", "-map", f"0:{stream}", *sink])
    frames = re.findall(r"^frame=\s*(\d+)", result.stdout, re.M)
    if result.returncode or result.stderr.strip() or not frames:
        raise ValueError(_reason(result.stderr) or "it has no frame")
    return int(frames[-1])


def require_frames(program: str, source: OpenFile, target: Path, streams: list[MediaStream]) -> list[int]:
    """Return the frames of each video stream that source and target both decode to; raises when they differ."""
    numbers = [str(stream.number) for stream in streams if stream.kind == "Video" and is_kept(stream)] or ["v:0"]
    return [_require_frames(program, source, target, wanted, f"v:{n}") for n, wanted in enumerate(numbers)]


def require_sizes(program: str, source: OpenFile, target: Path, streams: list[MediaStream]) -> None:
    """Raise ``VerificationFailed`` when frames of the target are smaller than those of the source, or other ones."""
    wanted = [stream.size for stream in streams if stream.kind == "Video" and is_kept(stream)]
    found = [stream.size for stream in find_streams(program, target) if stream.kind == "Video"]
    for before, after in zip(wanted, found):
        # Turned upright, where the file says that it lies on its side.
        if before and after and sorted(after) != sorted(size + size % 2 for size in before):
            raise VerificationFailed(
                f"{target}: has frames of {after[0]} × {after[1]} and {source.name} of {before[0]} × {before[1]}; "
                "keep it with --preset none"
            )


def _require_frames(program: str, source: OpenFile, target: Path, wanted: str, made: str) -> int:
    try:
        expected = count_frames(program, path := source.system_path(), wanted)
    except ValueError as error:
        reason = str(error).replace(path, source.name)
        raise SourceFault(
            f"{source.name}: is damaged, ffmpeg says: {reason}; restore it, or copy it unchanged with --preset none "
            "(all videos) or --accept-damaged (damaged ones)"
        ) from error
    try:
        found = count_frames(program, target, made)
    except ValueError as error:
        raise VerificationFailed(f"{target}: what was written does not decode: {error}; run again") from error
    if found != expected or not found:
        raise VerificationFailed(
            f"{target}: has {counted(found, 'frame')} and {source.name} has {expected}; keep it with --preset none"
        )
    return found


def version(program: str) -> str:
    """Return the first line of ``ffmpeg -version``."""
    return _run([program, "-version"]).stdout.split("\n")[0]


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="backslashreplace", check=False
    )


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.split("\n") if line.strip()]
    # ffmpeg names the cause first and "Conversion failed!" last; addresses of its contexts mean nothing to anybody.
    return re.sub(r"\[[^\]]*@ 0x[0-9a-f]+\]\s*", "", lines[0]) if lines else ""
