"""Tests of ``lading/report``."""
