"""Run ffmpeg: which program, which presets, and what its output proves.

Input: a video file and a preset. Output: an MP4 file (H.264), or a sentence.
Invariant: only this module runs ffmpeg; arguments are a list, a file name is
never an option (``file:`` before it); ffmpeg opens the source through its
open descriptor, never by its path; a transcoded file counts when it decodes
without an error to as many frames as its source.
"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from lading.compress.job import SourceFault, VerificationFailed
from lading.compress.sources import OpenFile
from lading.core import extras
from lading.core.errors import LadingError, UsageError

SUFFIXES = (".mp4", ".mov", ".avi", ".wmv", ".mkv", ".m4v", ".webm", ".mpg", ".mpeg", ".mts")
PRESETS = ("default", "gamma", "gamma-fix", "no-gamma", "user", "none")

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
    """Return the ffmpeg on PATH, else the one of the imageio-ffmpeg wheel; ``UsageError`` when there is none."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"no ffmpeg on PATH: load the ffmpeg module; or {extras.describe('imageio_ffmpeg', 'video')}"
        ) from error


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


def transcode(program: str, source: OpenFile, target: Path, arguments: list[str], threads: int) -> None:
    """Write ``target`` (MP4) from the first video stream and all audio of ``source``.

    Raises ``SourceFault`` when the source cannot be decoded, ``LadingError``
    when the output cannot be written.
    """
    output = [*arguments, "-threads", str(threads), "-f", "mp4", f"file:{target}"]
    path = source.system_path()
    result = _run([program, *_QUIET, "-y", "-i", f"file:{path}", "-map", "0:v:0", "-map", "0:a?", *output])
    if result.returncode:
        reason = _reason(result.stderr.replace(path, source.name))
        if "No space left" in reason:
            raise LadingError(f"{target}: cannot be written: {reason}; make room there and run again")
        raise SourceFault(
            f"{source.name}: ffmpeg cannot transcode it: {reason}; restore it, or carry it as it is with --preset none"
        )


def count_frames(program: str, path: str | Path) -> int:
    """Decode the first video stream of ``path`` and return its frames; ``ValueError`` in ffmpeg's words."""
    sink = ["-fps_mode", "passthrough", "-progress", "pipe:1", "-f", "null", "-"]
    result = _run([program, *_QUIET, "-err_detect", "explode", "-i", f"file:{path}", "-map", "0:v:0", *sink])
    frames = re.findall(r"^frame=\s*(\d+)", result.stdout, re.M)
    if result.returncode or result.stderr.strip() or not frames:
        raise ValueError(_reason(result.stderr) or "it has no frame")
    return int(frames[-1])


def require_frames(program: str, source: OpenFile, target: Path) -> int:
    """Return the frames that source and target both decode to; raises when one does not or they differ."""
    try:
        expected = count_frames(program, path := source.system_path())
    except ValueError as error:
        reason = str(error).replace(path, source.name)
        raise SourceFault(
            f"{source.name}: is damaged, ffmpeg says: {reason}; restore it, or carry it as it is with --preset none"
        ) from error
    try:
        found = count_frames(program, target)
    except ValueError as error:
        raise VerificationFailed(f"{target}: what was written does not decode: {error}; run again") from error
    if found != expected or not found:
        raise VerificationFailed(
            f"{target}: has {found} frames and {source.name} has {expected}; keep it with --preset none"
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
