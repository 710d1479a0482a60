"""Lading: crawl, cut, ship, prove and mirror cluster data to S3."""

import os

__version__ = "0.1.0"

# NumPy starts a thread of OpenBLAS for each core when it is imported, 128 on a login node, and nothing here multiplies
# matrices. Set before any module imports it; who sets the variable knows better.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
