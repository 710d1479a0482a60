"""The crawl beside its peers: GNU find, du, the Python walk; warm, under latency, and with ten million entries."""
