"""Runs in SpikeInterface's own environment: compare a source with what was made of it.

Usage: spikeinterface_reads.py openephys|spikeglx SOURCE COMPRESSED; prints one
JSON line per stream and segment, fails on the first difference.
"""

import json
import sys
from pathlib import Path

import numpy as np
import spikeinterface
from spikeinterface.extractors import get_neo_streams, read_openephys, read_spikeglx


def main(kind: str, source: str, compressed: str) -> None:
    read, name = {"openephys": (read_openephys, "openephysbinary"), "spikeglx": (read_spikeglx, "spikeglx")}[kind]
    streams, _ = get_neo_streams(name, source)
    for stream in streams:
        # Sync words have no clock of their own in SpikeInterface.
        timed = {"load_sync_timestamps": True} if kind == "openephys" and "SYNC" not in stream else {}
        origin = read(source, stream_name=stream, **timed)
        (path,) = [p for p in Path(compressed).glob("*.zarr") if p.name.endswith(f"_{stream}.zarr")]
        found = spikeinterface.read_zarr(path)
        assert found.get_num_segments() == origin.get_num_segments()
        assert list(found.channel_ids) == list(origin.channel_ids)
        assert found.sampling_frequency == origin.sampling_frequency
        assert found.dtype == origin.dtype
        np.testing.assert_array_equal(found.get_channel_gains(), origin.get_channel_gains())
        np.testing.assert_array_equal(found.get_channel_offsets(), origin.get_channel_offsets())
        assert found.has_probe() == origin.has_probe()
        if origin.has_probe():
            np.testing.assert_array_equal(found.get_channel_locations(), origin.get_channel_locations())
        for segment in range(origin.get_num_segments()):
            assert np.array_equal(found.get_traces(segment), origin.get_traces(segment))
            if timed or kind == "spikeglx":
                np.testing.assert_array_equal(found.get_times(segment), origin.get_times(segment))
            shape = [found.get_num_frames(segment), found.get_num_channels()]
            print(json.dumps({"stream": stream, "segment": segment, "shape": shape, "probe": found.has_probe()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
