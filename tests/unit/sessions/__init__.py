"""Tests of ``lading/sessions``."""
