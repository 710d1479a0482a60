"""Small clients of the services around a job, one module each."""
