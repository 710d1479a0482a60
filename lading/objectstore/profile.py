"""What the AWS profile says, as botocore reads it.

Input: ``AWS_PROFILE`` and the configuration files. Output: the endpoint, the
region, the certificates, the style of addresses; None for what it does not name.
Invariant: knows of no bucket and no client. botocore is loaded at the first
question, which takes a third of a second: whoever asks has seen in the files
that there may be an answer.
"""

import os
from collections.abc import Callable
from typing import Any

from lading.objectstore.object_info import StoreError
from lading.objectstore.target import FailureKind


def profile_endpoint() -> str | None:
    """Return the S3 server that the profile names: for S3 alone, else for all services; None when it names none."""

    def find(session: Any) -> Any:
        if session.get_config_variable("ignore_configured_endpoint_urls"):
            return None
        profile = session.get_scoped_config()
        own = session.full_config.get("services", {}).get(profile.get("services"), {}).get("s3", {})
        return (own.get("endpoint_url") if isinstance(own, dict) else None) or profile.get("endpoint_url")

    return _text(_ask(find))


def profile_bundle() -> str | None:
    """Return the file of certificates that the profile names, None when it names none."""
    return _text(_ask(lambda session: session.get_scoped_config().get("ca_bundle")))


def profile_style() -> str | None:
    """Return the addressing style that the profile names for S3, None when it names none."""
    found = _ask(lambda session: session.get_scoped_config().get("s3"))
    return found.get("addressing_style") if isinstance(found, dict) else None


def profile_region() -> str | None:
    """Return the region of the environment or the profile, None when there is none."""
    return _text(_ask(lambda session: session.get_config_variable("region")))


def profile_credentials() -> "Callable[[], tuple[str, str, str | None]] | None":
    """Return what answers with key, secret and token, renewed when they are about to expire; None where none are."""
    found = _ask(lambda session: session.get_credentials())
    if found is None:
        return None

    def ask() -> tuple[str, str, str | None]:
        frozen = found.get_frozen_credentials()
        return frozen.access_key, frozen.secret_key, frozen.token

    return ask


def unreadable(error: Exception) -> str:
    """Return why botocore cannot read the configuration, as a sentence."""
    if type(error).__name__ == "ProfileNotFound":
        return f"AWS_PROFILE={os.environ.get('AWS_PROFILE', '')!r} is not in the AWS configuration files"
    return f"the AWS configuration cannot be read: {str(error).splitlines()[0][:200]}"


def _ask(question: Callable[[Any], Any]) -> Any:
    import botocore.exceptions
    import botocore.session

    try:
        return question(botocore.session.get_session())
    except botocore.exceptions.BotoCoreError as error:
        raise StoreError(FailureKind.STOP, unreadable(error)) from error


def _text(found: Any) -> str | None:
    return str(found) if found else None
