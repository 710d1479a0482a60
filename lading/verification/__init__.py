"""Verification: what the bucket holds against what was planned; the manifest."""
