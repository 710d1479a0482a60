"""The digests, measured by each path of the processor."""
