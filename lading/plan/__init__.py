"""Planning: a size tree becomes batches, and batches become objects to send."""
