"""The report: tables, JSON and pages from the artefacts, which it never writes."""
