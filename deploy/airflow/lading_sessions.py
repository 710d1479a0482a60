"""A DAG that submits a job list to the portal and waits until its jobs have ended (Airflow 2.4 or later).

Input: Airflow Variables ``lading_portal`` (address), ``lading_token`` and ``lading_list`` (path of the csv).
Invariant: the portal does the jobs, and this only asks. A list is not queued twice: the portal refuses a
prefix that is queued or running, and the refusal fails the task with its words.
"""

import json
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path

try:
    from airflow.sdk import Variable, dag, task  # Airflow 3
except ImportError:
    from airflow.decorators import dag, task
    from airflow.models import Variable
from airflow.exceptions import AirflowFailException

OPEN = ("queued", "running")
SECONDS = 60


def ask(path: str, body: "bytes | None" = None, kind: str = "application/json") -> dict:
    """Return the data of the portal's answer; what it refuses fails at once with its words."""
    request = urllib.request.Request(Variable.get("lading_portal") + path, data=body)  # noqa: S310  # the site's own
    request.add_header("Authorization", f"Bearer {Variable.get('lading_token')}")
    if body is not None:
        request.add_header("Content-Type", kind)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise AirflowFailException(f"{path}: {error.code}: {error.read(2000).decode(errors='replace')}") from error


def form_of(path: Path) -> "tuple[bytes, str]":
    """Return a file as a form with one field, and the form's type."""
    border = "lading-list"
    head = f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'
    body = head.encode() + path.read_bytes() + f"\r\n--{border}--\r\n".encode()
    return body, f"multipart/form-data; boundary={border}"


@dag(schedule=None, start_date=datetime(2026, 1, 1), catchup=False)
def lading_sessions() -> None:
    """Submit a list, wait, and fail when a job failed."""

    @task
    def submit() -> "list[str]":
        body, kind = form_of(Path(Variable.get("lading_list")))
        return ask("/api/v2/submit_csv", body, kind)["dag_run_ids"]

    @task(retries=2)
    def wait(ids: "list[str]") -> None:
        bad = []
        for job in ids:
            while True:
                state = ask(f"/api/v1/get_job_status_list?dag_run_id={job}")["job_status_list"][0]
                if state["job_state"] not in OPEN:
                    break
                time.sleep(SECONDS)
            if state["job_state"] != "success":
                bad.append(f"{state['name']} {state['job_state']}")
        if bad:
            raise AirflowFailException(f"{', '.join(bad)}; the portal shows their logs")

    wait(submit())


lading_sessions()
