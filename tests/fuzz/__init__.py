"""Fuzz targets of the compiled modules: libFuzzer finds the inputs, Python judges the answers."""
