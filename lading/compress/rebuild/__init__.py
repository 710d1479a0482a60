"""The original files of a compression, made again from its outputs."""
