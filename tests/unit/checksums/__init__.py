"""Tests of ``lading/checksums``."""
