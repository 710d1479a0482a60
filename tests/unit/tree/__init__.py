"""Tests of ``lading/tree``."""
