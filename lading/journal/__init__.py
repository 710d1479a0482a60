"""What happened to each object: records that only accumulate, and the index over them."""
