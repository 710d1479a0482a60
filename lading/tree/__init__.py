"""The size tree: its format, readers in Python and C, index and globs."""
