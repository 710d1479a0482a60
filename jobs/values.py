"""The types of a job's values: what each accepts, and the sentence that refuses the rest.

Input: a cell, a parameter or a preset value. Output: the value in its own
type, or ``ValueError``.
Invariant: a refusal tells what was read and what to write instead; a secret
is never in it.
"""

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, SecretStr

from jobs import naming, vocabulary

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


def boolean(value: Any) -> bool:
    """Return a truth value: TRUE, T, yes, 1 and their opposites, in any case."""
    word = text(value).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{text(value)!r} is neither true nor false; write TRUE or FALSE")


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
    if "\0" in found or "\n" in found or re.match(r"[A-Za-z]:\\|\\\\|[a-z0-9]+://", found):
        raise ValueError(f"{found!r} is not a POSIX path; write it like /data/group/session_1")
    return Path(found)


def url(value: Any) -> str:
    """Return an https URL without trailing slash; a bare host gets ``https://``, plain http is for loopback only."""
    found = text(value).rstrip("/")
    parts = urlsplit(found if "://" in found else f"https://{found}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or " " in found:
        raise ValueError(f"{found!r} is not a URL; write it like https://example.org")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError(f"{found!r} is plain http, which would show its token to the network; write https://")
    return parts.geturl()


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


Boolean = Annotated[bool, BeforeValidator(boolean)]
Text = Annotated[str, BeforeValidator(text)]
Subject = Annotated[
    str,
    BeforeValidator(
        _matching(_SUBJECT, "is not a subject ID; use letters, digits, dots and hyphens (underscores part a prefix)")
    ),
]
Project = Annotated[str, BeforeValidator(_matching(_PROJECT, 'is not a project name; leave out <>:;"/|?\\_'))]
Email = Annotated[str, BeforeValidator(_matching(_EMAIL, "is not an e-mail address; write it like name@example.org"))]
Identifier = Annotated[str, BeforeValidator(_matching(_IDENTIFIER, "is not an ID; use letters, digits and -._:"))]
Bucket = Annotated[str, BeforeValidator(bucket)]
PosixPath = Annotated[Path, BeforeValidator(path)]
Url = Annotated[str, BeforeValidator(url)]
Acquired = Annotated[datetime, BeforeValidator(naming.parse_datetime)]
Modality = Annotated[str, BeforeValidator(lambda value: vocabulary.modality(text(value)))]
Platform = Annotated[str, BeforeValidator(lambda value: vocabulary.platform(text(value)))]
Notifications = Annotated[tuple[str, ...], BeforeValidator(notifications)]
LogLevel = Annotated[str, BeforeValidator(log_level)]
Secret = Annotated[SecretStr, BeforeValidator(secret)]
