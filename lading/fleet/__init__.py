"""Many releases: what is due is run, and people are told what went wrong."""
