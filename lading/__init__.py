"""Lading: crawl, cut, ship, prove and mirror cluster data to S3."""

__version__ = "0.1.0"
