"""Tests of one module each, without servers; the folders are those of ``lading/``."""
