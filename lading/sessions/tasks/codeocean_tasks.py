"""Code Ocean after the upload: register the asset, settle what to run, run it.

Input: the job, the facts of the upload. Output: IDs in the journal.
Invariant: without a domain the tasks say so and do nothing; a dry run prints
the requests, without the token.
"""

import json
from collections.abc import Mapping
from typing import Any

from lading.core.errors import UsageError
from lading.core.version import VERSION
from lading.sessions.job_model import computation_of
from lading.sessions.services import codeocean
from lading.sessions.services.http import HttpClient
from lading.sessions.services.parameter_store import reveal
from lading.sessions.task_context import TaskContext
from lading.sessions.tasks import pipeline_monitor


def _service(work: TaskContext) -> HttpClient:
    job = work.job
    if job.codeocean_domain is None or job.codeocean_api_token is None:
        raise UsageError("Code Ocean needs codeocean_domain and codeocean_api_token; give both, or skip the task")
    return codeocean.client(job.codeocean_domain, reveal(job.codeocean_api_token, work.settings.list_path.parent))


def _asset(work: TaskContext) -> dict[str, Any]:
    job = work.job
    kinds = sorted({entry.modality for entry in job.modalities})
    return {
        "name": job.prefix,
        "bucket": job.s3_bucket,
        "prefix": job.prefix,
        "tags": [*([job.platform] if job.platform else []), "raw", job.subject_id, *kinds],
        "properties": {"subject id": job.subject_id, "data level": "raw", **work.options.get("properties", {})},
    }


def register(work: TaskContext) -> dict[str, object]:
    """Register the uploaded prefix as a data asset."""
    if work.job.codeocean_domain is None:
        return {"skipped": "no codeocean_domain"}
    return {"asset": codeocean.register_asset(_service(work), **_asset(work))}


def preview_register(work: TaskContext) -> dict[str, object]:
    """Say which asset would be registered."""
    if work.job.codeocean_domain:
        work.say(f"would register with {work.job.codeocean_domain}: {json.dumps(_asset(work))}")
    return {}


def parts_of(job: Any) -> list[str]:
    """Return what is to be run: a folder per modality with a capsule or pipeline, ``trigger`` for the whole job."""
    if job.codeocean_domain is None or job.task("codeocean_pipeline_settings").skip_task:
        return []
    own = [
        entry.folder
        for entry in job.modalities
        if any(computation_of(job, entry)) or job.task("run_codeocean_pipeline", entry.folder).job_settings
    ]
    return [*own, *(["trigger"] if job.codeocean_trigger_capsule_id else [])]


def settle(work: TaskContext) -> dict[str, object]:
    """Write down what will be run, for every part."""
    runs = {part: _request(work, part) for part in parts_of(work.job)}
    return {"runs": runs}


def _asset_id(work: TaskContext) -> str | None:
    found: str | None = work.state.task("register_data_asset_to_codeocean").facts.get("asset")
    return found


def _request(work: TaskContext, part: str) -> dict[str, Any]:
    job = work.job
    if part == "trigger":
        kinds = [entry.modality for entry in job.modalities]
        settings: Mapping[str, Any] = {
            "job_type": job.job_type,
            "modalities": kinds,
            "capsule_id": job.codeocean_trigger_capsule_id,
            "process_capsule_id": job.codeocean_process_capsule_id,
            "bucket": job.s3_bucket,
            "prefix": job.prefix,
            "aind_data_transfer_version": f"lading {VERSION}",
        }
        return codeocean.computation_request(
            capsule_id=job.codeocean_trigger_capsule_id,
            version=job.codeocean_trigger_capsule_version,
            parameters=[codeocean.trigger_parameter(settings)],
        )
    entry = next(entry for entry in job.modalities if entry.folder == part)
    settings = job.task("run_codeocean_pipeline", part).job_settings
    monitor = settings.get("pipeline_monitor_settings") or {}
    params = dict(monitor.get("run_params") or {})
    capsule, pipeline = computation_of(job, entry)
    if pipeline and capsule:
        raise UsageError(f"modality{entry.number}: it names a capsule and a pipeline for Code Ocean; give one of them")
    if not pipeline and not capsule:
        raise UsageError(f"modality{entry.number}: its Code Ocean settings name neither capsule_id nor pipeline_id")
    asset = _asset_id(work)
    assets = params.pop("data_assets", None) or ([{"id": asset, "mount": job.prefix}] if asset else [])
    own = [entry.process_capsule_id] if entry.process_capsule_id and entry.process_capsule_id != capsule else []
    parameters = [*(settings.get("parameters") or params.pop("parameters", None) or []), *own]
    for name in ("capsule_id", "pipeline_id", "parameters"):
        params.pop(name, None)
    version = settings.get("version", params.pop("version", None))
    params.pop("version", None)
    request = codeocean.computation_request(
        capsule_id=capsule,
        pipeline_id=pipeline,
        version=None if version is None else str(version),
        parameters=parameters,
        data_assets=assets,
    ) | {name: value for name, value in params.items() if value is not None}
    if not settings.get("pipeline_monitor_capsule_id"):
        return request
    # The monitor's capsule runs it, waits for it and captures its results: all of that is its one parameter.
    return codeocean.computation_request(
        capsule_id=settings["pipeline_monitor_capsule_id"],
        parameters=[json.dumps({**monitor, "run_params": request}, sort_keys=True)],
    )


def run(work: TaskContext) -> dict[str, object]:
    """Start one computation, once, and do with its results what the settings say."""
    service = _service(work)
    computation = codeocean.run(service, _request(work, work.part), repeated=work.repeated)
    facts: dict[str, object] = {"computation": computation}
    settings = work.options
    monitor = settings.get("pipeline_monitor_settings") or {}
    waited = monitor.get("capture_settings") or monitor.get("computation_timeout") or monitor.get("alert_url")
    if work.part == "trigger" or settings.get("pipeline_monitor_capsule_id") or not waited:
        return facts
    return facts | pipeline_monitor.follow(work, service, computation, monitor)


def preview_run(work: TaskContext) -> dict[str, object]:
    """Print the request that would be sent."""
    body = json.dumps(_request(work, work.part))
    work.say(f"would post to {work.job.codeocean_domain}/api/v1/computations: {body}")
    return {}
