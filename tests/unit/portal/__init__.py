"""Tests of ``lading/portal``."""
