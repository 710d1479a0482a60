"""The mirror: DataLad datasets written from manifests."""
