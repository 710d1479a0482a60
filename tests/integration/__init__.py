"""Commands against real servers, a real Slurm, git-annex and a browser."""
