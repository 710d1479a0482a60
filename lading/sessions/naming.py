"""Names: when a session was acquired, where it goes in the bucket, what its folders are called.

Input: cells and values of a job. Output: a date, a prefix, folder names.
Invariant: equal sessions get equal names, whatever the spelling of the date;
no two modalities of a job share a folder.
"""

import re
from collections.abc import Sequence
from datetime import datetime

# The three forms of the job list documents; the second with fraction and zone, as ISO 8601 has them.
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}[ T]\d{1,2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:?\d{2})?")
_US = re.compile(r"\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}:\d{2} [AP]M")
DATE_FORMS = "YYYY-MM-DD HH:MM:SS, YYYY-MM-DDTHH:MM:SS or MM/DD/YYYY H:MM:SS AM"


def parse_datetime(value: object) -> datetime:
    """Return the time of acquisition as written (the zone, if given, is kept).

    Raises ``ValueError`` for anything but the three forms; a date without
    seconds is refused, since the seconds are part of the prefix.
    """
    if isinstance(value, datetime):
        return value
    text = " ".join(str(value).split())
    try:
        if _ISO.fullmatch(text):
            date, clock = re.split("[ T]", text, maxsplit=1)
            return datetime.fromisoformat(f"{date}T{clock if clock[2] == ':' else '0' + clock}")
        if _US.fullmatch(text.upper()):
            return datetime.strptime(text.upper(), "%m/%d/%Y %I:%M:%S %p")
    except ValueError as error:
        raise ValueError(f"{text!r} is no date: {error}") from None
    raise ValueError(f"{text!r} is not a date; write {DATE_FORMS}")


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
