"""The engines that carry files to a bucket, each behind one interface."""
