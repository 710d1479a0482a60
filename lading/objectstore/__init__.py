"""The transfer: objects to S3 and back, each one proven."""
