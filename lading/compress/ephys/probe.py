"""Probe geometry as probeinterface writes it.

Input: settings.xml of Open Ephys, or a SpikeGLX .meta. Output: the dictionary
of a probe group whose contacts are in channel order, or None.
Invariant: a probe that does not fit the stream's channels is left out, never
guessed.
"""

import functools
import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from lading.compress.job import SourceFault


@functools.cache
def _library() -> Any:
    """Return probeinterface: few processes of a job meet a probe, and it loads an HTTP client."""
    return importlib.import_module("probeinterface")


def describe_probe(probe: Any, channels: int) -> dict[str, Any] | None:
    """Return a probe as a group's dictionary, contacts sorted by channel; None when it has other channels."""
    wired = probe.device_channel_indices
    if wired is None:
        wired = np.arange(probe.get_contact_count())
    order = np.argsort(wired)
    if not np.array_equal(np.asarray(wired)[order], np.arange(channels)):
        return None
    probe = probe.get_slice(order)
    probe.set_device_channel_indices(np.arange(channels))
    group = _library().ProbeGroup()
    group.add_probe(probe)
    description: dict[str, Any] = group.to_dict(array_as_list=True)
    return description


def read_openephys_probe(settings: Path, stream: str, channels: int) -> tuple[Mapping[str, Any] | None, str]:
    """Return the probe of an Open Ephys stream and why it lacks; neither when the settings describe none for it."""
    if not settings.is_file():
        return None, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # A file that is cut short passes for one without probes there.
            ElementTree.parse(settings)  # noqa: S314 - expat of Python 3.11 bounds entity expansion
            if not _library().has_neuropixels_probes(settings, stream_name=stream):
                return None, ""
            found = describe_probe(_library().read_openephys_neuropixels(settings, stream_name=stream), channels)
        except Exception as error:  # noqa: BLE001 - a foreign parser of foreign files: the samples do not depend on it
            return None, _lacks(settings, _reason(error))
    return found, "" if found else _lacks(settings, f"it has other channels than the {channels} of the stream")


def _lacks(file: Path, reason: str) -> str:
    return f"the probe of {file.name} is not recorded: {reason}"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def read_spikeglx_probe(meta: Path, channels: int) -> tuple[Mapping[str, Any] | None, str]:
    """Return the probe of a SpikeGLX .meta, and why it lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = describe_probe(_library().read_spikeglx(meta), channels)
        except Exception as error:  # noqa: BLE001 - a foreign parser of foreign files: the samples do not depend on it
            return None, _lacks(meta, _reason(error))
    return found, "" if found else _lacks(meta, f"it has other channels than the {channels} of the stream")


def read_probe_file(path: Path, channels: int) -> Mapping[str, Any] | None:
    """Return the first probe of a probeinterface JSON file."""
    try:
        group = _library().read_probeinterface(path)
        return describe_probe(group.probes[0], channels)
    except Exception as error:
        raise SourceFault(
            f"{path}: is not a probe that probeinterface can read ({_reason(error)}); correct it"
        ) from error
