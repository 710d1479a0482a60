# Site settings for the batch scripts: sourced, not run. Every value can be
# set beforehand; LADING_SITE chooses a group of defaults (docs/howto/slurm.md).
#
#   lading    the checkout              lading_modules  modules to load, word by word
#   launcher  how a step is started     lading_scratch  node-local scratch, empty for none
#   passes    most steps in one job     venv            the Python environment

lading="${lading:-${SLURM_SUBMIT_DIR:-$PWD}}"

case "${LADING_SITE:-}" in
nersc)
  # Cray MPICH starts through Slurm's own plugin; the environment is where all nodes read it fast.
  : "${lading_modules=python cray-mpich}"
  : "${lading_launcher=srun --kill-on-bad-exit=0 --wait=0}"
  : "${lading_scratch=}"
  ;;
allen)
  : "${lading_modules=mpi/mpich-3.2-x86_64}"
  : "${lading_launcher=srun --mpi=pmi2 --kill-on-bad-exit=0 --wait=0}"
  : "${lading_scratch=/scratch/fast/${SLURM_JOB_ID:-}}"
  ;;
*)
  # The bundled MPICH speaks PMI-2. --kill-on-bad-exit=0: one lost rank is no reason to end the others.
  : "${lading_modules=}"
  : "${lading_launcher=srun --mpi=pmi2 --kill-on-bad-exit=0 --wait=0}"
  : "${lading_scratch=}"
  ;;
esac
: "${lading_passes=5}"

# Prints its arguments as one line of words that `more` of the makefile splits again.
lading_words() {
  local word
  for word in "$@"; do printf "'%s' " "${word//\'/\'\\\'\'}"; done
}

# Prints the command that a target of make would run, quoted for the shell; builds the environment first.
lading_command() {
  make -s -f "$lading/makefile" "$@" print=1
}

# Becomes that command, so that its exit code is the job's: make would end with 2 whatever it was.
lading_exec() {
  local command
  command="$(lading_command "$@")" || exit
  # Nothing to do, as for a find.json that is up to date.
  [ -n "$command" ] || exit 0
  eval "exec $command"
}

if [ -n "$lading_modules" ]; then
  for name in $lading_modules; do module load "$name" || exit 1; done
fi
if [ -n "$lading_scratch" ] && [ -d "$lading_scratch" ]; then
  export TMPDIR="$lading_scratch" DASK_TEMPORARY_DIRECTORY="$lading_scratch"
fi
