"""Electrophysiology recordings: what lies where in each acquisition format."""
