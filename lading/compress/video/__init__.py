"""Behaviour videos."""
