"""The types of a job's values: what each accepts, and the sentence that refuses the rest.

Input: a cell, a parameter or a preset value. Output: the value in its own
type, or ``ValueError``.
Invariant: a refusal tells what was read and what to write instead; a secret
is never in it.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, SecretStr

from lading.core.bounded import parse_json
from lading.sessions import naming, vocabulary

_TRUE = ("true", "t", "yes", "y", "1", "1.0")
_FALSE = ("false", "f", "no", "n", "0", "0.0")
# The schema package forbids underscores (they separate the parts of a prefix); blanks and slashes would break keys.
_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
# Names as S3 takes them today, and as its oldest region took them (underscores, capitals).
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
# aind-data-schema: DataRegex.NO_SPECIAL_CHARS_EXCEPT_SPACE.
_PROJECT = re.compile(r'[^<>:;"/|?\\_\x00-\x1f]+')
_EMAIL = re.compile(r"[^@\s,;]+@[^@\s,;]+\.[^@\s,;.]+")
_IDENTIFIER = re.compile(r"[A-Za-z0-9._:-]+")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def text(value: Any) -> str:
    """Return a cell as text; a whole number that a spreadsheet made a float loses its ``.0``."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def words(value: Any) -> str:
    """Return a text that is not to change: digits that were text stay as they were written.

    A number with a fraction is refused: 1.10 and 1.1 are one number and two versions.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{shown(value)} is not text; write it in quotes, or format its cell as text")


def number(value: Any) -> float | int:
    """Return a number, also one that is written as text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    try:
        found = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{shown(value)} is not a number")
    return int(value) if re.fullmatch(r"\s*[+-]?\d{1,18}\s*", value) else found


def whole(value: Any) -> int:
    """Return a whole number, also one that is written as text."""
    found = number(value)
    if found != int(found):
        raise ValueError(f"{shown(value)} is not a whole number")
    return int(found)


def texts(value: Any) -> list[str]:
    """Return a list of texts: a JSON list, or words with commas or semicolons between them."""
    if isinstance(value, str):
        value = parsed(value) if value.lstrip()[:1] == "[" else [part.strip() for part in re.split("[,;]", value)]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f'{shown(value)} is not a list; write it like a, b or ["a", "b"]')
    return [words(item) for item in value if item != ""]


def items(value: Any) -> list[Any]:
    """Return a list, also one that is written as JSON text."""
    value = parsed(value) if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{shown(value)} is not a list; write it as JSON, like [1, 2]")
    return list(value)


def members(value: Any) -> dict[str, Any]:
    """Return an object, also one that is written as JSON text."""
    value = parsed(value) if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise ValueError(f'{shown(value)} is not an object; write it as JSON, like {{"key": "value"}}')
    return value


def parsed(value: str) -> Any:
    """Return the JSON value of a text; ``ValueError`` says what is wrong with it."""
    try:
        return parse_json(value)
    except ValueError as error:
        raise ValueError(f"{shown(value)} is not JSON ({error})") from None


def shown(value: Any) -> str:
    """Return a value for a sentence: quoted as it was read, and never at full length."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"{value[:60]!r}…"
    found = json.dumps(value, default=str)
    return found if len(found) <= 60 else f"{found[:60]}…"


def as_cell(value: Any) -> str:
    """Return a value as a csv list holds it: what is read of that is the same value again."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return json.dumps(value) if isinstance(value, (dict, list)) else text(value)


def boolean(value: Any) -> bool:
    """Return a truth value: TRUE, T, yes, 1 and their opposites, in any case."""
    word = text(value).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{text(value)!r} is neither true nor false; write TRUE or FALSE")


def subject(value: Any) -> str:
    """Return the ID of a subject; what a spreadsheet made of one is refused with what to do."""
    if isinstance(value, (bool, datetime)):
        kind = "a truth value" if isinstance(value, bool) else "a date"
        raise ValueError(f"{text(value)!r} is {kind}, not a subject ID; format the cell as text and type it again")
    found = text(value)
    if re.fullmatch(r"\d+\.0+", found):
        raise ValueError(f"{found!r} looks like a number written with decimals; write {found.split('.')[0]}")
    return str(_matching(_SUBJECT, _NO_SUBJECT)(value))


_NO_SUBJECT = "is not a subject ID; use letters, digits, dots and hyphens (underscores part a prefix)"


def _matching(pattern: re.Pattern[str], sentence: str) -> Any:
    def check(value: Any) -> str:
        found = text(value)
        if not pattern.fullmatch(found):
            raise ValueError(f"{found!r} {sentence}")
        return found

    return check


def bucket(value: Any) -> str:
    """Return a bare bucket name, also from ``s3://name``."""
    found = text(value).removeprefix("s3://").rstrip("/")
    if not _BUCKET.fullmatch(found):
        raise ValueError(f"{text(value)!r} is not a bucket name; write it like my-bucket, without a path")
    return found


def path(value: Any) -> Path:
    """Return a POSIX path; Windows and URL forms are refused."""
    found = text(value)
    foreign = re.match(r"[A-Za-z]:|[a-z0-9]+://", found) or ("\\" in found and not found.startswith("/"))
    if "\0" in found or "\n" in found or foreign:
        raise ValueError(f"{found!r} is not a POSIX path; write it like /data/group/session_1")
    if found[:1] in ("~", "$"):
        raise ValueError(f"{found!r} is not a POSIX path: nothing here expands {found[0]}; write it like /home/me/data")
    return Path(found)


def mounted(value: Any, mounts: Mapping[str, str]) -> Any:
    """Return a path of Windows as the site mounts it here: ``\\\\server\\share\\a`` → ``/mount/a``; else as it is."""
    if not isinstance(value, str) or not mounts:
        return value
    wanted = value.strip().replace("/", "\\")
    for place in sorted(mounts, key=len, reverse=True):
        start = place.strip().replace("/", "\\").rstrip("\\")
        rest = wanted[len(start) :]
        if start and wanted.lower().startswith(start.lower()) and rest[:1] in ("", "\\"):
            return mounts[place].rstrip("/") + rest.replace("\\", "/").rstrip("/")
    return value


def url(value: Any, *, plain: bool = False) -> str:
    """Return an https URL without trailing slash; a bare host gets ``https://``.

    Plain http is for loopback only, and, with ``plain``, for a place that no token is sent to.
    """
    found = text(value).rstrip("/")
    parts = urlsplit(found if "://" in found else f"https://{found}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or " " in found:
        raise ValueError(f"{found!r} is not a URL; write it like https://example.org")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK and not plain:
        raise ValueError(f"{found!r} is plain http, which would show its token to the network; write https://")
    return parts.geturl()


def zone(value: Any) -> str:
    """Return the name of a time zone as the IANA database has it."""
    from zoneinfo import ZoneInfo, available_timezones

    found = words(value).strip()
    try:
        ZoneInfo(found)
    except (ValueError, OSError, LookupError):
        hint = vocabulary.nearest(found, available_timezones()) or "; write it like America/Los_Angeles"
        raise ValueError(f"{found!r} is not a time zone{hint}") from None
    return found


def notifications(value: Any) -> tuple[str, ...]:
    """Return the notification types of ``begin;fail`` or a list, sorted, each once."""
    words = value if isinstance(value, (list, tuple)) else re.split(r"[\s,;|]+", text(value).strip("[]"))
    found = {str(word).strip("'\" ").lower() for word in words} - {""}
    wrong = sorted(found - set(vocabulary.NOTIFICATIONS))
    if wrong:
        raise ValueError(f"{', '.join(map(repr, wrong))} is not one of {', '.join(vocabulary.NOTIFICATIONS)}")
    return tuple(sorted(found))


def log_level(value: Any) -> str:
    """Return a log level in capitals."""
    found = text(value).upper()
    if found not in vocabulary.LOG_LEVELS:
        hint = vocabulary.nearest(found, vocabulary.LOG_LEVELS) or f"; one of {', '.join(vocabulary.LOG_LEVELS)}"
        raise ValueError(f"{text(value)!r} is not a log level{hint}")
    return found


def secret(value: Any) -> SecretStr:
    """Return a secret, or where it is (``file:PATH``, ``env:NAME``, ``ssm:NAME``), masked in every text form."""
    return value if isinstance(value, SecretStr) else SecretStr(text(value))


def truth(value: Any) -> bool:
    """Return true or false for an order that nothing else may stand for."""
    word = text(value).lower() if isinstance(value, (bool, str)) else ""
    if word not in ("true", "false"):
        raise ValueError(f"{shown(value)} is neither true nor false; false deletes, true only lists")
    return word == "true"


Boolean = Annotated[bool, BeforeValidator(boolean)]
Text = Annotated[str, BeforeValidator(text)]
Words = Annotated[str, BeforeValidator(words)]
Number = Annotated[float | int, BeforeValidator(number)]
Whole = Annotated[int, BeforeValidator(whole)]
Texts = Annotated[list[str], BeforeValidator(texts)]
Truth = Annotated[bool, BeforeValidator(truth)]
Subject = Annotated[str, BeforeValidator(subject)]
Project = Annotated[str, BeforeValidator(_matching(_PROJECT, 'is not a project name; leave out <>:;"/|?\\_'))]
Email = Annotated[str, BeforeValidator(_matching(_EMAIL, "is not an e-mail address; write it like name@example.org"))]
Identifier = Annotated[str, BeforeValidator(_matching(_IDENTIFIER, "is not an ID; use letters, digits and -._:"))]
Bucket = Annotated[str, BeforeValidator(bucket)]
PosixPath = Annotated[Path, BeforeValidator(path)]
Url = Annotated[str, BeforeValidator(url)]
# Of a place that no token is sent to.
OpenUrl = Annotated[str, BeforeValidator(lambda value: url(value, plain=True))]
Acquired = Annotated[datetime, BeforeValidator(naming.parse_datetime)]
Modality = Annotated[str, BeforeValidator(lambda value: vocabulary.modality(text(value)))]
Notifications = Annotated[tuple[str, ...], BeforeValidator(notifications)]
LogLevel = Annotated[str, BeforeValidator(log_level)]
Secret = Annotated[SecretStr, BeforeValidator(secret)]
