"""The mirror: DataLad datasets written from the manifest."""
