"""Two manifests compared: what a release gained, lost, changed and renamed."""
