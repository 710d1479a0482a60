"""Tests of ``lading/compress``."""
