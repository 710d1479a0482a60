"""Tests of ``lading/journal``."""
