"""Objects of a bucket: the client, listings, ranged downloads, keys, rate limits, endpoints and errors."""
