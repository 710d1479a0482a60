"""Tests of ``lading/verification``."""
