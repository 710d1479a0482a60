"""Names: when a session was acquired, where it goes in the bucket, what its folders are called.

Input: cells and values of a job. Output: a date, a prefix, folder names.
Invariant: equal sessions get equal names, whatever the spelling of the date;
no two modalities of a job share a folder.
"""

import contextlib
import os
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

# The three forms of the job list documents; the second with fraction and zone, as ISO 8601 has them.
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}[ T]\d{1,2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:?\d{2})?")
_US = re.compile(r"\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}:\d{2} [AP]M")
EARLIEST_YEAR = 1900
DATE_FORMS = "YYYY-MM-DD HH:MM:SS, YYYY-MM-DDTHH:MM:SS or MM/DD/YYYY H:MM:SS AM"


def parse_datetime(value: object) -> datetime:
    """Return the time of acquisition as written (the zone, if given, is kept).

    Raises ``ValueError`` for anything but the three forms; a date without
    seconds is refused, since the seconds are part of the prefix.
    """
    if isinstance(value, datetime):
        return _likely(value, str(value))
    text = " ".join(str(value).split())
    if _US.fullmatch(text.upper()) and not 1 <= int(text.split(" ")[1].split(":")[0]) <= 12:
        raise ValueError(f"{text!r} is not a date: before AM and PM the hours go from 1 to 12")
    try:
        if _ISO.fullmatch(text):
            date, clock = re.split("[ T]", text, maxsplit=1)
            return _likely(datetime.fromisoformat(f"{date}T{clock if clock[2] == ':' else '0' + clock}"), text)
        if _US.fullmatch(text.upper()):
            return _likely(datetime.strptime(text.upper(), "%m/%d/%Y %I:%M:%S %p"), text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a date: {error}") from None
    raise ValueError(f"{text!r} is not a date; write {DATE_FORMS}")


def _likely(moment: datetime, text: str) -> datetime:
    """Return a time of acquisition; ``ValueError`` for a year that was mistyped."""
    if moment.year < EARLIEST_YEAR:
        raise ValueError(f"the year {moment.year} of {text!r} is a typing error; write it with four digits")
    return moment


def in_zone(moment: datetime, zone: str) -> datetime:
    """Return a time as it was in a zone; one that has a zone keeps it.

    Raises ``ValueError`` for what no clock there showed (daylight saving
    begins), or showed twice (it ends).
    """
    if moment.tzinfo is not None:
        return moment
    early, late = (moment.replace(tzinfo=ZoneInfo(zone), fold=fold) for fold in (0, 1))
    if early.utcoffset() == late.utcoffset():
        return early
    gap = early.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) != moment
    what = "no clock showed it, for daylight saving began" if gap else "it came twice, for daylight saving ended"
    raise ValueError(f"{moment.isoformat(sep=' ')} in {zone}: {what}; write the offset, like {early.isoformat()}")


def host_zone() -> str:
    """Return the name of this machine's time zone, as well as it can be told."""
    named = os.environ.get("TZ", "").lstrip(":")
    if not named:
        with contextlib.suppress(OSError):
            named = os.readlink("/etc/localtime").rpartition("zoneinfo/")[2]
    try:
        return ZoneInfo(named).key if named else "UTC"
    except (ValueError, OSError, LookupError):
        return "/".join(time.tzname)


def prefix(platform: str | None, subject_id: str, acquired: datetime) -> str:
    """Return ``<platform>_<subject>_<YYYY-MM-DD>_<HH-MM-SS>``, without the platform where there is none."""
    parts = [platform, subject_id, acquired.strftime("%Y-%m-%d"), acquired.strftime("%H-%M-%S")]
    return "_".join(part for part in parts if part)


def folders(modalities: Sequence[str]) -> list[str]:
    """Return a folder name for each modality: its abbreviation, repeated ones numbered from 1.

    >>> folders(["ecephys", "behavior", "ecephys"])
    ['ecephys', 'behavior', 'ecephys1']
    """
    seen: dict[str, int] = {}
    names = []
    for modality in modalities:
        count = seen.get(modality, 0)
        seen[modality] = count + 1
        names.append(f"{modality}{count}" if count else modality)
    return names
