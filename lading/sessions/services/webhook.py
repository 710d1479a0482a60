"""A webhook: each event of a job as a JSON object posted to a URL.

Input: an event. Output: one request.
Invariant: with a secret the body is signed (HMAC-SHA-256 in
``X-Lading-Signature``), so that a receiver can tell it from a forgery;
``id`` is equal for a repeated event.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from lading.sessions.services.http import HttpClient

TIMEOUT = 5.0
ATTEMPTS = 2


def post(url: str, event: Mapping[str, Any], secret: SecretStr | None = None) -> None:
    """Post one event; tried twice at most: a receiver tells repeats by their ``id``, and the list waits."""
    body = json.dumps(event)  # the text that the client sends
    headers = {}
    if secret:
        digest = hmac.new(secret.get_secret_value().encode(), body.encode(), hashlib.sha256).hexdigest()
        headers["X-Lading-Signature"] = f"sha256={digest}"
    hook = HttpClient("the webhook", url, headers, timeout=TIMEOUT, attempts=ATTEMPTS, heeds_delay=False)
    hook.request("POST", "", dict(event), idempotent=True)
