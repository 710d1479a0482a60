"""Restore: a part of a release, back from the bucket and verified."""
