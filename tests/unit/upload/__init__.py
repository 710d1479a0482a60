"""Tests of ``lading/upload``."""
