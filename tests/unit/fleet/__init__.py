"""Tests of ``lading/fleet``."""
