"""The AWS parameter store: endpoints, presets and secrets by name.

Input: names. Output: JSON values; secrets as ``SecretStr``.
Invariant: credentials come from the AWS chain alone; a value that is a
secret is decrypted in memory and never written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from lading.core.bounded import parse_json
from lading.core.errors import LadingError, UsageError

# A parameter holds the name of a secret under these keys: column → key with its path.
_SECRET_PATHS = {
    "codeocean_api_token": "codeocean_api_token_path",
    "video_encryption_password": "video_encryption_password_path",
}


# Keys under which the AIND tools look for a secret, by its column.
_USUAL_KEYS = {
    "codeocean_api_token": ("codeocean_readwrite_token", "codeocean_api_token"),
    "video_encryption_password": ("password",),
}
_ALL_USUAL = tuple(key for keys in _USUAL_KEYS.values() for key in keys)


def _call(operation: str, name: str, **arguments: Any) -> Any:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return getattr(boto3.client("ssm"), operation)(**arguments)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "ParameterNotFound":
            raise UsageError(
                f"the parameter store has no {name}; check the name, the region and the account"
            ) from error
        raise LadingError(
            f"the parameter store refused {name}: {code}; check the role that AWS_PROFILE names"
        ) from error
    except BotoCoreError as error:
        raise LadingError(f"the parameter store cannot be read for {name}: {error}") from error


def read_parameter(name: str) -> str:
    """Return the text of one parameter, decrypted."""
    found = _call("get_parameter", name, Name=name, WithDecryption=True)
    text: str = found["Parameter"]["Value"]
    return text


def read_endpoints(name: str) -> Mapping[str, Any]:
    """Return the JSON object of a parameter, its secrets fetched from the parameters that it names."""
    try:
        record = parse_json(read_parameter(name))
    except ValueError as error:
        raise UsageError(f"the parameter {name} is not JSON; it must be an object with endpoints") from error
    if not isinstance(record, dict):
        raise UsageError(f"the parameter {name} is not an object; it must name endpoints")
    for column, key in _SECRET_PATHS.items():
        path = record.pop(key, None)
        if path:
            record[column] = _secret_of(path, column)
        elif isinstance(record.get(column), str):
            record[column] = SecretStr(record[column])
    return record


def _secret_of(path: str, column: str) -> SecretStr:
    """Return the secret under a name, or under one key of it: ``NAME#KEY``.

    Without a key: the only one, the column's own, or the one that the AIND
    tools take. Raises ``UsageError`` where that leaves a choice.
    """
    path, _, wanted = path.partition("#")
    text = read_parameter(path)
    try:
        record = parse_json(text)
    except ValueError:
        return SecretStr(text)
    if not isinstance(record, dict):
        # A token of digits alone is JSON, too.
        return SecretStr(text if isinstance(record, (int, float)) else str(record))
    named = {key.lower(): key for key in record}
    usual = [named[name] for name in (column, *_USUAL_KEYS.get(column, _ALL_USUAL)) if name and name in named]
    if wanted and wanted not in record:
        raise UsageError(f"the parameter {path} has no key {wanted!r}; it has {', '.join(record)}")
    if not wanted and len(record) != 1 and not usual:
        keys = ", ".join(record) or "none"
        raise UsageError(f"the parameter {path} has several keys ({keys}); name one of them, like {path}#KEY")
    key = wanted or (next(iter(record)) if len(record) == 1 else usual[0])
    if not isinstance(record[key], str):
        raise UsageError(f"{key} of the parameter {path} is not text, and a secret must be")
    return SecretStr(record[key])


@dataclass(frozen=True)
class ParameterStore:
    """Parameters below ``root``; keys are laid out as in a directory of presets."""

    root: str

    def parameters(self, below: str) -> Iterator[tuple[str, str, Any]]:
        """Yield (key, name, value) of every parameter under ``below``; ``UsageError`` for one that is no JSON."""
        root = "/" + self.root.strip("/") if self.root.strip("/") else ""
        token: dict[str, str] = {}
        while True:
            page = _call(
                "get_parameters_by_path",
                f"{root}/{below}",
                Path=f"{root}/{below}",
                Recursive=True,
                WithDecryption=True,
                **token,
            )
            for item in page["Parameters"]:
                try:
                    value = parse_json(item["Value"])
                except ValueError as error:
                    raise UsageError(f"the parameter {item['Name']} is not JSON ({error})") from error
                yield item["Name"].removeprefix(f"{root}/"), item["Name"], value
            if not page.get("NextToken"):
                return
            token = {"NextToken": page["NextToken"]}


def reveal(secret: SecretStr, base: Path) -> SecretStr:
    """Return the secret itself: ``file:PATH``, ``env:NAME`` and ``ssm:NAME`` are followed.

    Raises ``UsageError`` when what it names is not there.
    """
    import os

    text = secret.get_secret_value()
    kind, _, place = text.partition(":")
    if kind == "env":
        if place not in os.environ:
            raise UsageError(f"the environment has no {place}, which a job names as its secret")
        return SecretStr(os.environ[place])
    if kind == "ssm":
        return _secret_of(place, "")
    if kind == "file":
        path = base / place
        try:
            status = path.stat()
            content = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"the secret file {path} cannot be read: {error.strerror}") from error
        if status.st_mode & 0o077:
            raise UsageError(f"the secret file {path} is open to others; run: chmod 600 {path}")
        return SecretStr(content.strip("\r\n"))
    return secret
