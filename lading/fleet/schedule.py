"""Which stages of a release are due.

Input: what the list says of a release, the results of its stages, the time. Output: names of stages, in order.
Invariant: a pure function. A stage is due when it never succeeded, failed, has work left, is older than its period, or
an earlier stage succeeded after it; so a run that was stopped anywhere goes on where it was.
"""

import time
from collections.abc import Mapping

from lading.core import exit_codes
from lading.journal.stage_result import StageResult
from lading.report.proof_age import DAY
from lading.report.release_list import ReleaseEntry

SLACK = 3600.0  # by which a run may begin early: cron is not punctual to the second
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ALONE = ("scrub",)  # needs no other stage: the bucket is read, whatever became of the source


def is_open(entry: ReleaseEntry, now: float) -> bool:
    """Tell whether runs may begin at this time of day and week."""
    moment = time.localtime(now)
    minute = moment.tm_hour * 60 + moment.tm_min
    day = moment.tm_wday
    if entry.after is not None and entry.until is not None:
        begun = entry.after <= minute if entry.after <= entry.until else minute >= entry.after or minute < entry.until
        if not begun or (entry.after <= entry.until and minute >= entry.until):
            return False
        if entry.after > entry.until and minute < entry.until:
            day = (day - 1) % 7  # the night that began yesterday
    elif entry.after is not None and minute < entry.after:
        day = (day - 1) % 7
    return not entry.days or _DAYS[day] in entry.days


def _boundary(minute: int, now: float) -> float:
    """Return the last time at which it was that minute of the day."""
    moment = time.localtime(now)
    days = 0 if moment.tm_hour * 60 + moment.tm_min >= minute else 1
    parts = (moment.tm_year, moment.tm_mon, moment.tm_mday - days, minute // 60, minute % 60, 0, 0, 0, -1)
    return time.mktime(parts)


def _is_old(entry: ReleaseEntry, began: float, period: float, now: float) -> bool:
    if entry.after is None:
        return now - began >= period - min(SLACK, period / 10)
    return began < _boundary(entry.after, now) and now - began >= period - DAY / 2


def ended_well(stage: str, found: StageResult) -> float | None:
    """Return when a stage last did its work; a crawl that could not read some paths did."""
    if stage == "find" and found.failed and found.failed.exit == exit_codes.SOME_FAILED:
        return max(found.succeeded or 0.0, found.failed.at)
    return found.succeeded


def due_stages(
    entry: ReleaseEntry, results: Mapping[str, StageResult], now: float, *, force: bool = False
) -> list[str]:
    """Return the stages that are due, in order; ``force``: all of them, whatever the time."""
    if force:
        return list(entry.stages)
    if not is_open(entry, now):
        return []
    due: list[str] = []
    before = 0.0  # when the stage before succeeded
    chained = False  # whether a stage before is due
    for stage in entry.stages:
        found = results.get(stage)
        done = ended_well(stage, found) if found else None
        wanted = found is None or done is None or _is_due(entry, stage, found, done, now)
        own = stage in (entry.every or {}) or stage in ALONE
        if not own and (chained or (done or 0.0) < before):
            wanted = True
        if wanted:
            due.append(stage)
        if stage not in ALONE:
            chained = chained or wanted
            before = max(before, done or 0.0)
    return due


def _is_due(entry: ReleaseEntry, stage: str, found: StageResult, done: float, now: float) -> bool:
    if found.failed and found.failed.at > done:
        return True
    if stage == "upload" and found.counts.get("objects_left"):
        return True
    period = entry.period(stage)
    return period is not None and _is_old(entry, found.began or done, period, now)
