"""Who does the jobs of a list: this process, MPI ranks, or Slurm arrays."""
