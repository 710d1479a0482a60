"""A second copy of a release, from its manifest."""
