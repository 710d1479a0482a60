"""The cut, measured beside fpart and a top-down cut."""
