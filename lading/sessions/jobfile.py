"""A validated job as JSON: what the portal keeps and its runner reads.

Input: a ``Job``; later its text, the presets of then and the values of its
parameter. Output: the same ``Job``.
Invariant: what was validated is what is done; no value is read a second time
from text. A secret that a preset holds in clear is not in the text: a mark
stands for it, and it is taken from the preset again when the job runs.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from lading.core.bounded import JsonMembers, parse_json
from lading.core.errors import UsageError
from lading.core.version import provenance
from lading.sessions.columns import JOB_COLUMNS, MODALITY_COLUMNS, MODALITY_FIELDS, PIPELINE, SECRET_COLUMNS
from lading.sessions.job_model import Job, placed
from lading.sessions.precedence import OF_THE_ROW, REFERENCES, Context, is_secret
from lading.sessions.presets import Presets
from lading.sessions.vocabulary import SETTINGS_TASKS

FORMAT = 1
_MARK = {"lading_secret_of_preset": True}
# Flags over a list that are a field of each modality, too.
_SWITCHES = ("dry_run", "compress_raw_data", "force_cloud_sync", "skip_staging")


def encode_job(job: Job) -> str:
    """Return the text of a job, without any secret but where one is."""
    fields = job.model_dump(exclude_unset=True)
    for name in SECRET_COLUMNS:
        value = fields.get(name)
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
            fields[name] = text if text.startswith(REFERENCES) else _MARK
    fields["tasks"] = {
        task: {part: _marked(settings, False) for part, settings in parts.items()}
        for task, parts in fields.get("tasks", {}).items()
    }
    record = {"format": FORMAT, "kind": "job", "written_by": provenance(), "job": fields}
    return json.dumps(record, default=_plain) + "\n"


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a job holds {type(value).__name__}, which JSON has no form for")


def _marked(value: Any, hidden: bool) -> Any:
    """Return settings with a mark for each secret; one is a secret by its own name or that of anything around it."""
    if isinstance(value, Mapping):
        return {key: _marked(item, hidden or is_secret(str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item, hidden) for item in value]
    if not hidden or value in (None, "") or isinstance(value, bool) or str(value).startswith(REFERENCES):
        return value
    return _MARK


def read_job(path: Path, presets: Presets) -> Job:
    """Return the job in a file; ``UsageError`` says what of it cannot be had again."""
    try:
        take = JsonMembers(parse_json(path.read_bytes()), "a job")
        if take.text("kind") != "job" or take.number("format") != FORMAT:
            raise ValueError(f"it is of another format than {FORMAT}")
        fields = dict(take.object("job"))
        _Secrets(presets, path).restore(fields)
        return Job.model_validate(fields)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        places = ", ".join(".".join(map(str, item["loc"])) for item in error.errors(include_input=False)[:5])
        raise UsageError(f"{path} is not a job of this version ({places}); submit it again") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a job ({error}); submit it again") from error


def overlaid(job: Job, context: Context) -> Job:
    """Return the job with its parameter's values and the switches of the command line on top, as in a list."""
    stored = context.parameters.get(job.aws_param_store_name or "", {})
    switches = {name: True for name in _SWITCHES if context.flags.get(name)}
    given = {name: stored[name] for name in JOB_COLUMNS if stored.get(name) is not None and name not in OF_THE_ROW}
    given |= switches
    if not given:
        return job
    fields = {**job.model_dump(exclude_unset=True), **given}
    columns = [name for name in MODALITY_COLUMNS if name not in MODALITY_FIELDS and name != PIPELINE]
    whole = {name: given[name] for name in columns if name in given}
    fields["modalities"] = [{**entry, **whole} for entry in fields.get("modalities", ())]
    return placed(Job.model_validate(fields), Path("/"))


@dataclass(frozen=True)
class _Secrets:
    """Puts the secrets of presets back where their marks are."""

    presets: Presets
    where: Path

    def restore(self, fields: dict[str, Any]) -> None:
        """Replace every mark in the fields of a job."""
        defaults = self.presets.site.get("defaults", {})
        for name in SECRET_COLUMNS:
            if fields.get(name) == _MARK:
                fields[name] = self._found(defaults.get(name), name)
        kinds = {entry["folder"]: entry["modality"] for entry in fields.get("modalities", ())}
        for task, parts in fields.get("tasks", {}).items():
            for part, settings in parts.items():
                for place, key, trail in _marks(settings):
                    place[key] = self._found(self._of_preset(fields, task, kinds.get(part, ""), trail), ".".join(trail))

    def _of_preset(self, fields: Mapping[str, Any], task: str, kind: str, trail: tuple[str, ...]) -> Any:
        presets = self.presets.tasks(str(fields.get("job_type")))
        named = [task, *(name for name, ours in SETTINGS_TASKS.items() if ours == task)]
        for name, part in product(named, dict.fromkeys((kind, ""))):
            value: Any = presets[name][part][1] if part in presets.get(name, {}) else None
            for key in trail:
                if isinstance(value, list) and key.isdigit():
                    value = value[int(key)] if int(key) < len(value) else None
                else:
                    value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                return value
        return None

    def _found(self, value: Any, name: str) -> Any:
        if value is None:
            raise UsageError(f"{self.where}: the preset no longer has {name}; submit the job again")
        return value


def _marks(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any, tuple[str, ...]]]:
    """Yield (container, key in it, keys from the top) of each mark."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        if item == _MARK:
            yield value, key, (*above, str(key))
        else:
            yield from _marks(item, (*above, str(key)))
