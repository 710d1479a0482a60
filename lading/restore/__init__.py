"""A part of a release, back from the bucket."""
