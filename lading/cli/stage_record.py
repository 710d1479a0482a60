"""Notes how a stage ended, for who looks after many releases; tells people and a watchdog where one asked for it.

Input: a stage's name and arguments, what runs it; ``LADING_NOTIFY``, ``LADING_PING``, ``LADING_METRICS``. Output: its
exit code, unchanged; ``.lading-stages/<stage>.json`` in the folder of the release.
Invariant: a stage runs and ends as it would alone: nothing here makes it fail, or hangs for long.
"""

import os
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from lading.core import exit_codes
from lading.core.command_line import LAST_ERRORS, blot_secrets
from lading.core.errors import LadingError
from lading.core.processes import BEFORE_EXIT
from lading.journal.stage_result import STAGES, StageResult, is_first_rank, read_result, write_result

# What tells where the folder of the release is: flags whose value is a file in it.
_PLACES = {
    "find": ("-o", "--output"),
    "batch": ("-o", "--output", "--file-tree"),
    "upload": ("--batch",),
    "verify": ("--batch",),
    "scrub": ("--log", "--manifest"),
    "mirror": ("--manifest", "--config"),
}
# With one of these nothing of the release is done.
_LOOKS = ("-h", "--help", "--dry-run", "--estimate", "--check", "--ncdu", "--version")
_VERBS = ("update", "update-from-backup")  # of mirror


def is_recorded(name: str, arguments: Sequence[str]) -> bool:
    """Tell whether a command is a run of a stage on a release."""
    words = {word.partition("=")[0] for word in arguments}
    if name not in STAGES or words.intersection(_LOOKS) or not is_first_rank():
        return False
    if name == "mirror":
        return bool(words.intersection(_VERBS))
    return not (name == "verify" and "--manifest" in words)


def is_of_copy(name: str, arguments: Sequence[str]) -> bool:
    """Tell whether a stage is run on a second place, by its name: that is told, and is no stage of the release."""
    if name == "verify":
        return _value_of("--place", arguments) not in (None, "origin")
    manifest = _value_of("--manifest", arguments) or ""
    return name == "scrub" and fnmatch(os.path.basename(manifest), "manifest.*.jsonl.zst")


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    for number, word in enumerate(arguments):
        given, equals, value = word.partition("=")
        if given == flag and (equals or number + 1 < len(arguments)):
            return value if equals else arguments[number + 1]
    return None


def find_folder(name: str, arguments: Sequence[str]) -> Path | None:
    """Return the folder of the release that a command is about, None where that is not a folder here."""
    for flag in _PLACES[name]:
        place = _value_of(flag, arguments)
        if place is not None:
            return None if "://" in place or place == "-" else Path(place).absolute().parent
    return Path.cwd()


def run_recorded(name: str, arguments: Sequence[str], run: Callable[[], int]) -> int:
    """Run a stage and note how it ended; returns its exit code or raises what it raises."""
    folder = find_folder(name, arguments)
    if folder is None:
        return run()
    keeps = not is_of_copy(name, arguments)
    began, before = time.time(), _read(folder, name) if keeps else StageResult(name)
    told = any(os.environ.get(f"LADING_{what}") for what in ("NOTIFY", "PING", "METRICS"))
    ended = False
    if told:
        from lading.fleet.single_release import tell_begin, tell_end  # here: few ask for it

        tell_begin()

    def end(code: int, sentence: str = "") -> None:
        nonlocal ended
        if not ended:
            ended = True
            sentence = blot_secrets(sentence or (LAST_ERRORS[-1] if code and LAST_ERRORS else ""))
            if keeps:
                write_result(folder, name, began, code, sentence)
            if told:
                tell_end(folder, before, _read(folder, name) if keeps else before, code, sentence)

    BEFORE_EXIT.append(end)
    try:
        code = run()
    except KeyboardInterrupt:
        end(exit_codes.INTERRUPTED, "interrupted")
        raise
    except LadingError as error:
        end(error.exit_code, str(error))
        raise
    except OSError as error:
        where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
        end(exit_codes.FAILED, f"{error.strerror or error}{where}")
        raise
    except Exception as error:
        end(exit_codes.DEFECT, f"{type(error).__name__}: {error}")
        raise
    finally:
        BEFORE_EXIT.remove(end)
    end(code)
    return code


def _read(folder: Path, name: str) -> StageResult:
    try:
        return read_result(folder, name) or StageResult(name)
    except (OSError, ValueError):
        return StageResult(name)
