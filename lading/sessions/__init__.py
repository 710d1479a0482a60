"""Job lists: a csv of sessions becomes compressed, described, uploaded data."""
