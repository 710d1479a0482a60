"""Tests of ``lading/plan``."""
