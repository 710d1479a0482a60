"""Which codec stores recordings in the fewest bytes, at a speed that a night allows."""
