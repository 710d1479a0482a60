"""A DAG for one release: crawl, plan, upload every night, verify (Airflow 2.4 or later).

Input: Airflow Variables ``lading_command`` (how to call lading, for example ``/opt/lading/bin/lading``),
``lading_folder`` (where the artefacts are), ``lading_root``, ``lading_release`` and ``lading_bucket``.
Invariant: each task is one command, which may be killed and run again. Exit codes decide what Airflow does: 0 success,
3 try again, 75 skip (another run is at work), anything else fails at once.
"""

import shlex
import subprocess
from datetime import datetime, timedelta

try:
    from airflow.sdk import Variable, dag, task  # Airflow 3
except ImportError:
    from airflow.decorators import dag, task
    from airflow.models import Variable
from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException

AGAIN, BUSY = 3, 75


def run(*arguments: str) -> None:
    """Run one stage; what its exit code means for Airflow."""
    command = [*shlex.split(Variable.get("lading_command")), *arguments]
    code = subprocess.run(command, cwd=Variable.get("lading_folder"), check=False).returncode
    if code == BUSY:
        raise AirflowSkipException("another run is at work on this release")
    if code == AGAIN:
        raise AirflowException("some items failed; the log names them, and a retry continues")
    if code:
        raise AirflowFailException(f"{shlex.join(command)} ended with {code}; the log says why")


@dag(
    schedule="0 20 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=10)},
)
def lading_release() -> None:
    """Send a release, night after night, until nothing is left; then say whether the bucket holds it."""

    @task
    def crawl() -> None:
        run("find", Variable.get("lading_release"), "-o", "find.json")

    @task
    def plan() -> None:
        run("batch", Variable.get("lading_release"), "--upload-root", Variable.get("lading_root"))

    @task
    def upload() -> None:
        run("upload", Variable.get("lading_root"), "--bucket", Variable.get("lading_bucket"), "--max-time", "8h")

    @task
    def verify() -> None:
        run("verify", Variable.get("lading_root"), "--bucket", Variable.get("lading_bucket"))

    crawl() >> plan() >> upload() >> verify()


lading_release()
