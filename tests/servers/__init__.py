"""Real servers that the tests start on loopback and stop by pid."""
