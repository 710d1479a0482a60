#!/usr/bin/env bash
# One night of one release: upload what is left, then verify once nothing is left.
#
#   0 20 * * *  /path/to/lading/deploy/cron/nightly.sh /scratch/dr1
#
# FOLDER holds config.mk (root, release, bucket) and the artefacts. Prints nothing while all is well, so that cron sends
# no mail; otherwise the end of the log. Ends with the exit code of lading. LADING_MAX_TIME bounds the upload (8h).
set -uo pipefail

if [ $# -ne 1 ] || [ ! -d "$1" ]; then
  echo "usage: nightly.sh FOLDER, the folder of a release with its config.mk" >&2
  exit 2
fi
lading="${lading:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}"
cd "$1" || exit 1
log="nightly.log"
busy=".nightly.busy" # nights in a row that found another run at work

# Runs a target by its own command: make would turn every exit code into 2.
stage() {
  local command
  command="$(make -s -f "$lading/makefile" "$@" print=1 2>>"$log")" || return 2
  echo "== $(date -u +%Y-%m-%dT%H:%M:%SZ) $*" >>"$log"
  eval "$command" >>"$log" 2>&1
}

stage upload "max_time=${LADING_MAX_TIME:-8h}"
code=$?
# Only when nothing is left is there something to verify.
if [ "$code" = 0 ] && tail -n 5 "$log" | grep -q '^next: make verify'; then
  stage verify
  code=$?
fi

if [ "$code" = 75 ]; then
  echo x >>"$busy"
  # Another run is at work: that is well for a night or two.
  [ "$(wc -l <"$busy")" -le 3 ] && exit 75
else
  rm -f "$busy"
fi
if [ "$code" != 0 ]; then
  echo "lading: $PWD ended with $code; the end of $PWD/$log:"
  tail -n 20 "$log"
fi
exit "$code"
