"""Probe geometry as probeinterface writes it.

Input: settings.xml of Open Ephys, or a SpikeGLX .meta. Output: the dictionary
of a probe group whose contacts are in channel order, or None.
Invariant: a probe that does not fit the stream's channels is left out, never
guessed.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import probeinterface


def describe_probe(probe: probeinterface.Probe, channels: int) -> dict[str, Any] | None:
    """Return a probe as a group's dictionary, contacts sorted by channel; None when it has other channels."""
    wired = probe.device_channel_indices
    if wired is None:
        wired = np.arange(probe.get_contact_count())
    order = np.argsort(wired)
    if not np.array_equal(np.asarray(wired)[order], np.arange(channels)):
        return None
    probe = probe.get_slice(order)
    probe.set_device_channel_indices(np.arange(channels))
    group = probeinterface.ProbeGroup()
    group.add_probe(probe)
    description: dict[str, Any] = group.to_dict(array_as_list=True)
    return description


def read_openephys_probe(settings: Path, stream: str, channels: int) -> Mapping[str, Any] | None:
    """Return the probe of an Open Ephys stream, or None when the settings describe none for it."""
    if not settings.is_file():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not probeinterface.has_neuropixels_probes(settings, stream_name=stream):
            return None
        try:
            probe = probeinterface.read_openephys_neuropixels(settings, stream_name=stream)
        except (KeyError, ValueError, AssertionError):
            # Positions or a part number it does not know: the samples do not depend on it.
            return None
    return describe_probe(probe, channels)


def read_spikeglx_probe(meta: Path, channels: int) -> Mapping[str, Any] | None:
    """Return the probe of a SpikeGLX .meta, or None when it has no channel map."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            probe = probeinterface.read_spikeglx(meta)
        except (KeyError, ValueError, AssertionError):
            # A part number it does not know, or no imroTbl: the samples do not depend on it.
            return None
    return describe_probe(probe, channels)


def read_probe_file(path: Path, channels: int) -> Mapping[str, Any] | None:
    """Return the first probe of a probeinterface JSON file."""
    group = probeinterface.read_probeinterface(path)
    return describe_probe(group.probes[0], channels)
