"""What the AIND transfer service's own models dump is taken, and its jobs run to success on a site of stand-ins.

The models run in an environment of their own, which is made when it is not
there; ``LADING_REFERENCE_VENV`` names one that exists.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from lading.portal.submissions import take_json
from lading.sessions.presets import Presets
from tests.conftest import REPOSITORY
from tests.portal import Portal, serve
from tests.reference_lists import LISTS
from tests.servers import web

pytestmark = pytest.mark.long
PACKAGE = "aind-data-transfer-service==2.1.2"
# Stands in for singularity: what an image of the reference does with its settings.
SINGULARITY = """#!{python}
import json, os, shutil, sys
settings = json.loads(sys.argv[-1])
assert "docker://" in sys.argv[3], sys.argv
if "output_directory" in settings:
    output = settings["output_directory"]
    assert os.path.isdir(settings["input_source"]), settings
    os.makedirs(output, exist_ok=True)
    part = os.environ.get("SLURM_ARRAY_TASK_ID", "0")
    with open(os.path.join(output, f"made-by-{{part}}.json"), "w") as stream:
        json.dump(settings, stream)
print("done", settings)
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python of an environment that has the service's package."""
    given = os.environ.get("LADING_REFERENCE_VENV")
    directory = Path(given) if given else Path(sys.prefix).parent / f"{Path(sys.prefix).name}-reference"
    python = directory / "bin/python"
    check = [str(python), "-c", "import aind_data_transfer_service.models.core"]
    if not python.exists() or subprocess.run(check, check=False, capture_output=True).returncode:
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]
        subprocess.run(install, check=True, timeout=900)
    return python


@pytest.fixture(scope="module")
def bodies(python: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    """The folder that the requests name, and every request."""
    top = tmp_path_factory.mktemp("data")
    for name in ("ecephys", "behavior", "behavior-videos", "SPIM", "derivatives", "metadata", "logs"):
        (top / name).mkdir()
        if name not in ("metadata", "logs"):
            (top / name / f"{name}.bin").write_bytes(os.urandom(500))
    (top / "metadata" / "acquisition_notes.json").write_text('{"note": "kept"}')
    # Names only: the environment of this one must not lend that one its packages.
    found = subprocess.run(
        [python, REPOSITORY / "tests/reference_requests.py", top],
        check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    return top, json.loads(found.stdout)


def write_site(directory: Path, bucket: str, domain: str) -> Path:
    presets = directory / "presets"
    program = (
        "#!/bin/bash\nsingularity exec --cleanenv docker://%IMAGE:%IMAGE_VERSION python -m x --job-settings "
        "'%JOB_SETTINGS'\n"
    )
    image = {"image": "registry.example.org/gather", "image_version": "1", "command_script": program}
    for name, value in {
        "job_types/v2/default/tasks/modality_transformation_settings/ecephys": {
            "job_settings": {"compress_raw_data": False}
        },
        "job_types/v2/default/tasks/gather_preliminary_metadata": image,
        "job_types/v2/default/tasks/gather_final_metadata": {
            name: image[name] for name in ("image", "image_version", "command_script")
        },
        "job_types/v2/HCR/tasks/modality_transformation_settings/SPIM": image,
        # A tree that is shared with others has tasks that nothing here knows.
        "job_types/v2/default/tasks/notify_the_elders": {"image": "elsewhere"},
        "site/settings": {
            "buckets": {"default": bucket, "open": bucket, "private": bucket},
            "defaults": {"codeocean_domain": domain, "codeocean_api_token": "env:CODE_OCEAN_TOKEN"},
            "time_zone": "America/Los_Angeles",
            "portal": {"allow_programs": True},
        },
    }.items():
        path = presets / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    return presets


@pytest.fixture
def code_ocean() -> Iterator[web.Web]:
    """Computations that are done at once, and assets that are ready."""
    assets: list[dict] = []

    def answer(request: web.Request) -> web.Reply:
        place = request.path.removeprefix("/api/v1/")
        if place == "data_assets/search":
            return 200, {"results": assets, "has_more": False}
        if place == "data_assets" and request.method == "POST":
            assets.append({"id": f"asset-{len(assets)}", "name": request.body["name"], "state": "ready"})
            return 200, assets[-1]
        if place == "computations" and request.method == "POST":
            return 200, {"id": f"run-{request.body['data_assets'][0]['mount']}", "state": "initializing"}
        if place.startswith("computations/"):
            state = {"state": "completed", "end_status": "succeeded", "created": 1_700_000_000, "run_time": 60}
            return 200, {"id": place.split("/")[1], **state}
        return 200, {"id": place.split("/")[1], "state": "ready"}

    with web.serve(answer) as running:
        yield running


@pytest.fixture
def portal(tmp_path: Path, s3, bucket: str, code_ocean, monkeypatch: pytest.MonkeyPatch) -> Iterator[Portal]:
    s3.make_bucket(bucket)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "singularity"
    program.write_text(SINGULARITY.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CODE_OCEAN_TOKEN", "a-token")
    presets = write_site(tmp_path, bucket, code_ocean.url)
    with serve(tmp_path, "--presets", str(presets), "--endpoint-url", s3.endpoint) as running:
        yield running


def test_requests_of_the_reference_are_taken_and_done(portal, bodies, code_ocean, s3, bucket: str) -> None:
    top, requests = bodies
    for name, body in requests.items():
        answer = portal.client.post("/api/v2/validate_json", json=body)
        assert answer.status_code == 200, (name, answer.text)
        again = {"upload_jobs": answer.json()["data"]["jobs"]}
        assert portal.client.post("/api/v2/validate_json", json=again).status_code == 200, name
        if not name.endswith("nulls"):
            answer = portal.client.post("/api/v2/submit_jobs", json=body)
            assert answer.status_code == 200, (name, answer.text)
    jobs = portal.wait()
    assert [(job["name"], job["comment"]) for job in jobs if job["job_state"] != "success"] == []
    client = boto3.client("s3", endpoint_url=s3.endpoint)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = {item["Key"] for page in pages for item in page.get("Contents", [])}
    for job in jobs:
        assert f"{job['name']}/acquisition_notes.json" in keys or "HCR" in job["name"], job["name"]
    assert "ecephys_600010_2023-04-03_18-17-10/derivatives/derivatives.bin" in keys
    assert {f"HCR_600005_2023-04-03_18-17-05/SPIM/made-by-{number}.json" for number in range(4)} <= keys
    made = json.loads(
        client.get_object(Bucket=bucket, Key="behavior_600003_2023-04-03_18-17-03/behavior-videos/made-by-0.json")[
            "Body"
        ].read()
    )
    assert made["input_source"] == str(top / "behavior-videos")
    assert made["output_directory"].endswith("/behavior-videos")
    assert not any("/ecephys/" in key for key in keys if "600011" in key)
    # Two of the requests run a pipeline: each is posted once, with the asset, and its results are captured.
    posted = [request.body for request in code_ocean.of("POST", "/api/v1/computations")]
    assert Counter(body["data_assets"][0]["mount"] for body in posted) == {
        "600002_2023-04-03_18-17-02": 1,
        "ecephys_600004_2023-04-03_18-17-04": 1,
    }
    assert {body["capsule_id"] for body in posted} == {"a-capsule"}
    captured = [one.body for one in code_ocean.of("POST", "/api/v1/data_assets") if "computation" in one.body["source"]]
    assert {body["name"] for body in captured} == {
        "600002_2023-04-03_18-17-02_sorted_2023-11-14_22-14-20",
        "ecephys_600004_2023-04-03_18-17-04_sorted_2023-11-14_22-14-20",
    }
    assert all(body["target"]["aws"] == {"bucket": "results", "prefix": body["name"]} for body in captured)
    assert all(body["tags"] == ["derived"] for body in captured)
    permitted = [one.body for one in code_ocean.requests if one.path.endswith("/permissions")]
    assert permitted == [{"everyone": "viewer"}] * 2


def test_lists_have_the_prefixes_that_the_reference_gives_them(python: Path, tmp_path: Path) -> None:
    """What the service's reader takes of a list has the same prefix here, as a list and as the job that it dumps."""
    lists = {name: one.text for name, one in LISTS.items() if one.service}
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    found = subprocess.run(
        [python, REPOSITORY / "tests/reference_requests.py", tmp_path, tmp_path / "lists.json"],
        check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    presets = Presets(
        types={"default": {}, "ecephys": {}},
        site={
            "buckets": dict.fromkeys(("default", "open", "private"), "a-bucket"),
            "defaults": {"codeocean_domain": "https://co.example.org", "codeocean_api_token": "env:TOKEN"},
            "portal": {"secrets": ["env:TOKEN"], "domains": ["https://co.example.org"]},
        },
    )
    compared = 0
    for name, rows in json.loads(found.stdout).items():
        refused = {line for line, _, _ in LISTS[name].refused}
        theirs = [row["prefix"] for line, row in enumerate(rows, 2) if "prefix" in row and line not in refused]
        ours = LISTS[name].prefixes
        # Two equal modalities in a row are kept here; there the first one is lost, the prefix is the same.
        assert theirs == ours, (name, rows)
        for row in rows:
            if row.get("prefix") not in ours:
                continue
            job = json.loads(json.dumps(row["job"]).replace('"data/', '"/data/'))
            taken = take_json([job], presets)
            assert [fault.message for fault in taken.faults] == [], name
            assert taken.checked.jobs[0].prefix == row["prefix"]
            compared += 1
    assert compared >= 10
