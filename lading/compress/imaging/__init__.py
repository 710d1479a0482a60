"""Images to OME-Zarr."""
