"""The crawl: a file system into flat arrays, on many threads and ranks."""
