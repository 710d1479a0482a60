"""The cut: a tree becomes batches."""
