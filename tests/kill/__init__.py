"""Processes killed, servers that fail, races: nothing is lost."""
