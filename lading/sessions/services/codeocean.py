"""Code Ocean: register a data asset, run a capsule or pipeline, once.

Input: a domain, a token, what to run. Output: IDs of assets and computations.
Invariant: a repeated call after a crash finds what the first one made and
makes nothing new. Endpoints and fields as in Code Ocean's public API
documentation (docs.codeocean.com/user-guide/code-ocean-api).
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from lading.sessions.services.http import HttpClient, RemoteError


def client(domain: str, token: SecretStr) -> HttpClient:
    """Return a client; the token is the user of basic authentication, the password is empty."""
    credentials = base64.b64encode(f"{token.get_secret_value()}:".encode()).decode()
    return HttpClient("Code Ocean", f"{domain.rstrip('/')}/api/v1", {"Authorization": f"Basic {credentials}"})


def computation_request(
    *,
    capsule_id: str | None = None,
    pipeline_id: str | None = None,
    version: str | None = None,
    parameters: Sequence[str] = (),
    data_assets: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """Return the body of ``POST /computations``; exactly one of capsule and pipeline is given."""
    if (capsule_id is None) == (pipeline_id is None):
        raise ValueError("a computation runs one capsule or one pipeline")
    body: dict[str, Any] = {"capsule_id": capsule_id} if capsule_id else {"pipeline_id": pipeline_id}
    if version is not None:
        body["version"] = int(version) if version.isdigit() else version
    if data_assets:
        body["data_assets"] = [dict(asset) for asset in data_assets]
    return body | ({"parameters": list(parameters)} if parameters else {})


def trigger_parameter(settings: Mapping[str, Any]) -> str:
    """Return the one parameter of a trigger capsule: ``{"trigger_codeocean_job": {…}}`` as JSON text."""
    return json.dumps({"trigger_codeocean_job": dict(settings)}, sort_keys=True)


def run(service: HttpClient, body: Mapping[str, Any], *, repeated: bool) -> str:
    """Start a computation and return its ID; with ``repeated``, return an equal one that was started already.

    ``repeated`` is for the run after a crash between the request and the
    note of its answer. Starting is not idempotent, so it is not retried once
    the request may have been acted on.
    """
    if repeated:
        found = _equal_computation(service, body)
        if found:
            return found
    answer = service.request("POST", "computations", dict(body), idempotent=False)
    return _identifier(answer.body, "computations")


def _equal_computation(service: HttpClient, body: Mapping[str, Any]) -> str | None:
    kind, owner = ("capsules", body["capsule_id"]) if "capsule_id" in body else ("pipelines", body["pipeline_id"])
    answer = service.request("GET", f"{kind}/{owner}/computations", idempotent=True, accept=(404,))
    wanted = list(body.get("parameters", []))
    for computation in answer.body if isinstance(answer.body, list) else []:
        values = [item.get("value") if isinstance(item, dict) else item for item in computation.get("parameters") or []]
        if values == wanted and computation.get("state") != "failed" and _same_assets(computation, body):
            return str(computation["id"])
    return None


def _same_assets(computation: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    used = {asset.get("id") for asset in computation.get("data_assets") or []}
    return {asset["id"] for asset in body.get("data_assets", [])} <= used


def register_asset(
    service: HttpClient, *, name: str, bucket: str, prefix: str, tags: Sequence[str], properties: Mapping[str, str]
) -> str:
    """Return the ID of the external data asset ``name``; registers it unless it is there."""
    body = {
        "name": name,
        "mount": name,
        "tags": list(tags),
        "custom_metadata": dict(properties),
        "source": {"aws": {"bucket": bucket, "prefix": prefix, "keep_on_external_storage": True, "public": False}},
    }
    return create_asset(service, body)


def computation(service: HttpClient, identifier: str) -> dict[str, Any]:
    """Return what Code Ocean says of a computation."""
    return _object(service.request("GET", f"computations/{identifier}", idempotent=True).body, "computations")


def stop_computation(service: HttpClient, identifier: str) -> None:
    """End a computation."""
    service.request("DELETE", f"computations/{identifier}", idempotent=True, accept=(404,))


def asset(service: HttpClient, identifier: str) -> dict[str, Any]:
    """Return what Code Ocean says of a data asset."""
    return _object(service.request("GET", f"data_assets/{identifier}", idempotent=True).body, "data_assets")


def create_asset(service: HttpClient, body: Mapping[str, Any]) -> str:
    """Return the ID of the data asset of a name; makes it of ``body`` unless it is there."""
    found = _find_asset(service, body["name"])
    if found is not None:
        return found
    return _identifier(service.request("POST", "data_assets", dict(body), idempotent=False).body, "data_assets")


def permit(service: HttpClient, identifier: str, permissions: Mapping[str, Any]) -> None:
    """Say who may do what with a data asset."""
    given = {key: value for key, value in permissions.items() if value is not None}
    service.request("POST", f"data_assets/{identifier}/permissions", given, idempotent=True)


def _find_asset(service: HttpClient, name: str) -> str | None:
    found = service.request(
        "POST", "data_assets/search", {"query": f'name:"{name}"', "limit": 50, "archived": False}, idempotent=True
    )
    return next((str(one["id"]) for one in (found.body or {}).get("results", []) if one.get("name") == name), None)


def _object(body: Any, what: str) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise RemoteError(f"Code Ocean: the answer to {what} is not an object; look at its page before running again")
    return body


def _identifier(body: Any, what: str) -> str:
    if not isinstance(body, dict) or "id" not in body:
        raise RemoteError(f"Code Ocean: the answer to {what} has no id; look at its page before running again")
    return str(body["id"])
