"""The upload: prepare, send, verify."""
