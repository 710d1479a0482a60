"""How fast the upload is beside its peers: ``python -m benchmarks.upload``."""
