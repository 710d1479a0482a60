"""Tests of ``lading/objectstore``."""
