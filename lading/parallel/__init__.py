"""Where a run finds itself: MPI ranks, dask workers, a Slurm allocation."""
