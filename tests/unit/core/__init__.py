"""Tests of ``lading/core``."""
