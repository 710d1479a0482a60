"""Tests of ``lading/coordination``."""
