#!/usr/bin/env bash
# bash experiments/small_data_recipe/run.sh DIR RUNS [GROUP]: the runs of runs.csv that results.csv lacks.
# DIR holds the oral histology images of question.md, RUNS the run folders: what was cut off goes on there. Each run
# has one core, and as many go at once as there are cores (CORES=1 for fewer). Ten CPU minutes a run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export here root=$1 runs=$2 group=${3:-} OMP_NUM_THREADS=1
mkdir -p "$here/figures" "$runs"

one() {
  IFS=, read -r name kind images words <<<"$1"
  run=$runs/$name
  [[ -n $group && $kind != "$group" ]] && return
  grep -qs "^$name," "$here/results.csv" && return
  grep -qs '"status": "done"' "$run/run.json" && return
  if [[ -f $run/checkpoints/last.ckpt ]]; then
    python -m mbgan.train resume="$run"
  else
    # shellcheck disable=SC2086
    python -m mbgan.train experiment=small_data_recipe data.root="$root" total_images="$images" \
      eval_every=$((images / 5)) hydra.run.dir="$run" ${words//\"/}
  fi >"$runs/$name.log" 2>&1
}
export -f one
tail -n +2 "$here/runs.csv" | xargs -P "${CORES:-$(nproc)}" -d '\n' -I{} bash -c 'one "$1"' _ {} || echo "a run failed: see its log in $runs" >&2
python "$here/score.py" "$runs"
python "$here/figures.py"
