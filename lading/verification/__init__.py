"""What the bucket holds against what was planned: comparison, audit, manifest."""
