"""Digests of local bytes, as buckets show them."""
