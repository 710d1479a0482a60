"""Tests of ``lading/crawl``."""
