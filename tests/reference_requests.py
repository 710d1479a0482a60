"""Requests as the AIND transfer service's own models dump them, for what its documents show how to ask.

Run by the Python of an environment that has ``aind-data-transfer-service``:
``reference_requests.py DIRECTORY`` prints JSON, name → body of a request; with
a file of lists (name → csv), what its reader makes of each row. The
directory holds ``ecephys``, ``behavior``, ``behavior-videos``, ``SPIM``,
``derivatives`` and ``metadata``.
"""

import csv
import io
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from aind_data_schema_models.modalities import Modality
from aind_data_transfer_service.configs.csv_handler import map_csv_row_to_job
from aind_data_transfer_service.configs.platforms_v1 import Platform
from aind_data_transfer_service.models.core import SubmitJobRequestV2, Task, UploadJobConfigsV2

TRANSFORM = "modality_transformation_settings"


def request(tasks: dict[str, Any], number: int, **more: Any) -> SubmitJobRequestV2:
    job = {
        "job_type": "default",
        "project_name": "A project",
        "platform": Platform.ECEPHYS,
        "modalities": [Modality.ECEPHYS],
        "subject_id": str(600000 + number),
        "acq_datetime": datetime(2023, 4, 3, 18, 17, number),
        **more,
    }
    shared = {key: job.pop(key) for key in ("email_notification_types",) if key in job}
    jobs = [UploadJobConfigsV2(**job, tasks=tasks)]
    return SubmitJobRequestV2(user_email="somebody@example.org", upload_jobs=jobs, **shared)


def requests(top: Path) -> dict[str, SubmitJobRequestV2]:
    def source(name: str, **more: Any) -> Task:
        return Task(job_settings={"input_source": str(top / name), **more.pop("settings", {})}, **more)

    metadata = {"gather_preliminary_metadata": Task(job_settings={"metadata_dir": str(top / "metadata")})}
    ecephys = {TRANSFORM: {"ecephys": source("ecephys")}, **metadata}
    monitor = {
        "run_params": {"capsule_id": "a-capsule"},
        "capture_settings": {
            "target": {"aws": {"bucket": "results"}},
            "permissions": {"everyone": "viewer"},
            "tags": ["derived"],
            "custom_metadata": {"data level": "derived"},
            "process_name_suffix": "sorted",
        },
    }
    pipeline = {"codeocean_pipeline_settings": {"ecephys": Task(job_settings={"pipeline_monitor_settings": monitor})}}
    video = {
        "skip_task": False,
        "image": "registry.example.org/videos",
        "image_version": "0.1.7",
        "image_resources": {
            "memory_per_cpu": {"set": True, "number": 250},
            "minimum_cpus_per_node": 32,
            "partition": "cpu",
            "qos": "dev",
            "standard_error": str(top / "logs/%x_%j_error.out"),
            "standard_output": str(top / "logs/%x_%j.out"),
            "tasks": 1,
            "time_limit": {"set": True, "number": 720},
            "environment": ["PATH=/bin:/usr/bin/:/usr/local/bin/", "LD_LIBRARY_PATH=/lib/:/lib64/"],
            "current_working_directory": ".",
        },
        "job_settings": {
            "input_source": str(top / "behavior-videos"),
            "output_directory": "%OUTPUT_LOCATION",
            "compression_requested": {"compression_enum": "gamma fix colorspace"},
        },
        "command_script": "#!/bin/bash \nsingularity exec --cleanenv docker://%IMAGE:%IMAGE_VERSION python -m "
        "a_package.etl --job-settings ' %JOB_SETTINGS '",
    }
    program = (
        "#!/bin/bash \nsingularity exec --cleanenv docker://%IMAGE:%IMAGE_VERSION python -m a_package.gather "
        "--job-settings ' %JOB_SETTINGS '"
    )
    prepared = Task(image_version="1.1.0", job_settings={"metadata_dir": str(top / "metadata")})
    described = {"gather_preliminary_metadata": prepared}
    return {
        "a basic upload": request(ecephys, 1),
        "metadata of the second schema": request(
            {
                TRANSFORM: {"ecephys": source("ecephys")},
                **described,
                "gather_final_metadata": Task(image_version="1.1.0", command_script=program),
                "register_data_asset": Task(job_settings={"docdb_version": "v2"}),
                "get_codeocean_asset_id": Task(job_settings={"docdb_version": "v2"}),
                **pipeline,
            },
            2,
            platform=None,
        ),
        "compression of videos by an image": request(
            {TRANSFORM: {"behavior": source("behavior"), "behavior-videos": video}, **metadata},
            3,
            platform=Platform.BEHAVIOR,
            modalities=[Modality.BEHAVIOR, Modality.BEHAVIOR_VIDEOS],
        ),
        "a pipeline of Code Ocean": request({**ecephys, **pipeline}, 4),
        "an image stack in partitions": request(
            {
                TRANSFORM: {
                    "SPIM": source("SPIM", settings={"num_of_partitions": 4}, image_resources={"array": "0-3"}),
                },
                **metadata,
            },
            5,
            job_type="HCR",
            s3_bucket="open",
            platform=Platform.HCR,
            modalities=[Modality.SPIM],
        ),
        "removal of the sources": request({**ecephys, "remove_source_folders": Task(skip_task=False)}, 6),
        "no look at the bucket": request({**ecephys, "check_s3_folder_exists": {"skip_task": True}}, 7),
        "resources of Slurm": request(
            {
                TRANSFORM: {
                    "ecephys": source(
                        "ecephys",
                        image_resources={
                            "memory_per_cpu": {"set": True, "number": 6000},
                            "minimum_cpus_per_node": 6,
                            "time_limit": {"set": True, "number": 240},
                        },
                    )
                },
                **metadata,
            },
            8,
        ),
        "notifications": request(ecephys, 9, email_notification_types={"begin", "end", "fail"}),
        "derivatives": request(
            {**ecephys, "copy_derivatives_folder": Task(job_settings={"input_source": str(top / "derivatives")})}, 10
        ),
        "no transformation": request({TRANSFORM: Task(skip_task=True), **metadata}, 11),
    }


def read_list(text: str) -> list[dict[str, Any]]:
    """What the service's own reader makes of a csv list: a dumped job, or why it has none, for each row."""
    found = []
    for row in csv.DictReader(io.StringIO(text)):
        if not any(row.values()):
            continue
        try:
            job = map_csv_row_to_job(row=row)
            found.append({"job": json.loads(job.model_dump_json(round_trip=True, exclude_none=True, warnings=False))})
            found[-1]["prefix"] = job.s3_prefix
        except Exception as error:
            found.append({"error": f"{type(error).__name__}: {error}"[:300]})
    return found


def main() -> None:
    if len(sys.argv) == 3:
        lists = json.loads(Path(sys.argv[2]).read_text())
        print(json.dumps({name: read_list(text) for name, text in lists.items()}))
        return
    bodies = {}
    for name, made in requests(Path(sys.argv[1])).items():
        bodies[name] = made.model_dump(mode="json", exclude_none=True)
        bodies[f"{name}, with nulls"] = made.model_dump(mode="json")
    print(json.dumps(bodies))


if __name__ == "__main__":
    main()
