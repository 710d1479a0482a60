"""What was submitted and how far it is: SQLite on local disk.

Input: validated jobs, and changes of their state. Output: rows as frozen
dataclasses.
Invariant: a job that was accepted is on disk before the answer leaves; no
prefix is queued or running twice (a unique index says so, not a check before
an insert); a job enters a final state exactly once.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

QUEUED, RUNNING, SUCCESS, FAILED, CANCELLED = "queued", "running", "success", "failed", "cancelled"
OPEN_STATES = (QUEUED, RUNNING)
STATES = (QUEUED, RUNNING, SUCCESS, FAILED, CANCELLED)

_SCHEMA = """
create table if not exists job (
  id text primary key,
  prefix text not null,
  bucket text not null,
  job_type text not null,
  user_email text,
  row text not null,
  state text not null,
  comment text not null default '',
  attempt integer not null default 1,
  cancel integer not null default 0,
  submitted text not null,
  started text,
  ended text,
  dry_run integer not null default 0,
  job text not null default '',
  owner text not null default ''
);
create unique index if not exists one_open_per_prefix on job (bucket, prefix) where state in ('queued', 'running');
create index if not exists by_submission on job (submitted);
create index if not exists by_state on job (state);
"""


# Columns that came after the first release of the table, and what rows of before hold in them.
_LATER = {
    "dry_run": "integer not null default 0",
    "job": "text not null default ''",
    "owner": "text not null default ''",
}


class DuplicatePrefixError(Exception):
    """The prefix is queued or running already; ``args[0]`` is the prefix."""


@dataclass(frozen=True)
class StoredJob:
    """One submitted job.

    row           "", or of an earlier version: the job as one record of a csv list, header included
    attempt       1 for the first run, one more for each retry
    cancel        a person asked to stop it
    dry_run       it was taken in as a dry run, whose state has a place of its own
    job           the validated job as JSON, "" of an earlier version
    owner         who submitted it, as ``callers`` names users; "" of an earlier version
    """

    id: str
    prefix: str
    bucket: str
    job_type: str
    user_email: str | None
    row: str
    state: str
    comment: str
    attempt: int
    cancel: bool
    submitted: str
    started: str | None
    ended: str | None
    dry_run: bool = False
    job: str = ""
    owner: str = ""

    @property
    def open(self) -> bool:
        """True while the job is queued or running."""
        return self.state in OPEN_STATES


@dataclass(frozen=True)
class NewJob:
    """A job on its way in: its fields are those of ``StoredJob``."""

    id: str
    prefix: str
    bucket: str
    job_type: str
    user_email: str | None
    job: str
    dry_run: bool = False
    owner: str = ""


@dataclass(frozen=True)
class Filter:
    """Which jobs a page shows; empty fields select all. Dates compare as ISO text."""

    states: tuple[str, ...] = ()
    job_type: str = ""
    name: str = ""
    since: str = ""
    until: str = ""
    id: str = ""
    order: str = "-submitted"
    owner: str = ""


@dataclass(frozen=True)
class JobSummary:
    """Jobs by state; when the oldest queued one came and the last one succeeded, ISO text; retries of all."""

    counts: dict[str, int]
    oldest_queued: str | None
    last_success: str | None
    retries: int


# What a list of jobs can be sorted by: the name in a request → the column.
ORDERS = {
    "execution_date": "submitted",
    "submit_time": "submitted",
    "submitted": "submitted",
    "start_date": "started",
    "start_time": "started",
    "started": "started",
    "end_date": "ended",
    "end_time": "ended",
    "ended": "ended",
    "duration": "coalesce(julianday(ended), julianday('now')) - julianday(started)",
    "try_number": "attempt",
    "state": "state",
    "job_state": "state",
    "job_type": "job_type",
    "name": "prefix",
    "owner": "owner",
    "dag_run_id": "id",
    "job_id": "id",
}


def now() -> str:
    """Return the time as ISO 8601 UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JobStore:
    """The table of jobs. One connection per operation: safe from any thread or process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        _keep_private(path)
        with self._connect() as connection:
            connection.execute("pragma journal_mode = wal")
            connection.executescript(_SCHEMA)
            connection.execute("begin immediate")
            present = {row["name"] for row in connection.execute("pragma table_info(job)")}
            for name, kind in _LATER.items():
                if name not in present:
                    connection.execute(f"alter table job add column {name} {kind}")
            connection.execute("commit")

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        connection.row_factory = sqlite3.Row
        # Accepted means on disk, also when the power goes.
        connection.execute("pragma synchronous = full")
        try:
            yield connection
        finally:
            connection.close()

    def add(self, jobs: Sequence[NewJob]) -> None:
        """Queue all jobs or none; ``DuplicatePrefixError`` when one is open already."""
        submitted = now()
        with self._connect() as connection:
            connection.execute("begin immediate")
            for job in jobs:
                try:
                    connection.execute(
                        "insert into job "
                        "(id, prefix, bucket, job_type, user_email, job, row, dry_run, owner, state, submitted) "
                        "values (?, ?, ?, ?, ?, ?, '', ?, ?, ?, ?)",
                        (
                            job.id,
                            job.prefix,
                            job.bucket,
                            job.job_type,
                            job.user_email,
                            job.job,
                            job.dry_run,
                            job.owner,
                            QUEUED,
                            submitted,
                        ),
                    )
                except sqlite3.IntegrityError as error:
                    connection.execute("rollback")
                    raise DuplicatePrefixError(job.prefix) from error
            connection.execute("commit")

    def get(self, job_id: str) -> StoredJob | None:
        """Return one job, or None."""
        with self._connect() as connection:
            row = connection.execute("select * from job where id = ?", (job_id,)).fetchone()
        return _stored(row) if row else None

    def select(self, wanted: Filter, offset: int = 0, limit: int = 100) -> tuple[int, list[StoredJob]]:
        """Return how many jobs match, and a page of them, newest first."""
        terms, values = ["1"], list[object]()
        if wanted.states:
            terms.append(f"state in ({', '.join('?' * len(wanted.states))})")
            values += wanted.states
        for term, value in (
            ("job_type = ?", wanted.job_type),
            ("instr(lower(prefix), lower(?)) > 0", wanted.name),
            ("id = ?", wanted.id),
            ("owner = ?", wanted.owner),
            ("submitted >= ?", wanted.since),
            ("submitted <= ?", wanted.until),
        ):
            if value:
                terms.append(term)
                values.append(value)
        where = " and ".join(terms)
        column, down = ORDERS[wanted.order.lstrip("-")], "desc" if wanted.order.startswith("-") else "asc"
        with self._connect() as connection:
            # The terms and columns are constants of this module; every value is bound.
            count = connection.execute(f"select count(*) from job where {where}", values).fetchone()[0]  # noqa: S608
            rows = connection.execute(
                f"select * from job where {where} order by {column} {down}, rowid {down} limit ? offset ?",  # noqa: S608
                [*values, limit, offset],
            ).fetchall()
        return count, [_stored(row) for row in rows]

    def in_state(self, state: str) -> list[StoredJob]:
        """Return all jobs in a state, oldest first."""
        with self._connect() as connection:
            rows = connection.execute(
                "select * from job where state = ? order by submitted, rowid", (state,)
            ).fetchall()
        return [_stored(row) for row in rows]

    def start(self, job_id: str) -> bool:
        """Note that a queued job runs; False when it is not queued."""
        return self._change(
            "update job set state = ?, started = coalesce(started, ?) where id = ? and state = ?",
            (RUNNING, now(), job_id, QUEUED),
        )

    def requeue(self, job_id: str) -> bool:
        """Put a running job whose runner died back into the queue."""
        return self._change("update job set state = ? where id = ? and state = ?", (QUEUED, job_id, RUNNING))

    def end(self, job_id: str, state: str, comment: str) -> bool:
        """Move an open job to a final state; False when it had ended before."""
        return self._change(
            "update job set state = ?, comment = ?, ended = ? where id = ? and state in (?, ?)",
            (state, comment, now(), job_id, *OPEN_STATES),
        )

    def ask_cancel(self, job_id: str) -> bool:
        """Note that an open job is to be stopped; False when it is not open."""
        return self._change("update job set cancel = 1 where id = ? and state in (?, ?)", (job_id, *OPEN_STATES))

    def retry(self, job_id: str) -> bool:
        """Queue a failed or cancelled job again; ``DuplicatePrefixError`` when its prefix is open elsewhere."""
        try:
            return self._change(
                "update job set state = ?, attempt = attempt + 1, cancel = 0, comment = '', started = null, "
                "ended = null where id = ? and state in (?, ?)",
                (QUEUED, job_id, FAILED, CANCELLED),
            )
        except sqlite3.IntegrityError as error:
            raise DuplicatePrefixError(job_id) from error

    def job_types(self) -> list[str]:
        """Return the job types that were ever submitted, sorted."""
        with self._connect() as connection:
            return [row[0] for row in connection.execute("select distinct job_type from job order by 1")]

    def summarise(self) -> "JobSummary":
        """Return how many jobs are in each state, and what else a monitor asks for."""
        with self._connect() as connection:
            counts = dict(connection.execute("select state, count(*) from job group by state").fetchall())
            queued, success, retries = connection.execute(
                "select min(case when state = ? then submitted end), max(case when state = ? then ended end), "
                "coalesce(sum(attempt - 1), 0) from job",
                (QUEUED, SUCCESS),
            ).fetchone()
        return JobSummary({state: counts.get(state, 0) for state in STATES}, queued, success, retries)

    def _change(self, statement: str, values: Sequence[object]) -> bool:
        with self._connect() as connection:
            return connection.execute(statement, values).rowcount == 1


def _keep_private(path: Path) -> None:
    """Make the database with mode 0600, or give it that; SQLite makes its -wal and -shm files alike."""
    # Only a new one is opened: closing a file drops the locks that SQLite has on it in this process.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with suppress(FileNotFoundError):
            os.chmod(name, 0o600)


def _stored(row: sqlite3.Row) -> StoredJob:
    values = dict(row)
    values |= {name: bool(values[name]) for name in ("cancel", "dry_run")}
    return StoredJob(**values)
