#!/usr/bin/env bash
# bash experiments/fast_step/run.sh DIR RUNS: the paper's WGAN-GP by the fast step and by a plain one, three seeds each.
# DIR holds the oral histology images, RUNS the run folders; what is done there is not done again, what was cut off goes on. CORES=1: one run at a time.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export here root=$1 runs=$2 OMP_NUM_THREADS=1
mkdir -p "$runs"

one() {
  arm=${1%-*} seed=${1#*-} run=$runs/$1
  grep -qs '"status": "done"' "$run/run.json" && return
  case $arm in
    plain) words=(trainer.precision=32-true model.make_opt_g.fused=false model.make_opt_d.fused=false) ;;
    fast) words=(trainer.precision=bf16-mixed) ;;
  esac
  program=(-m mbgan.train)
  [[ $arm == plain ]] && program=("$here/plain.py")
  if [[ -f $run/checkpoints/last.ckpt ]]; then
    python "${program[@]}" resume="$run" >>"$run.log" 2>&1
    return
  fi
  rm -rf "$run"
  python "${program[@]}" experiment=small_data_recipe model=wgan_gp data.root="$root" seed="$seed" total_images=9600 \
    eval_every=1600 full_metrics=null 'callbacks.evaluation.also=[]' hydra.run.dir="$run" "${words[@]}" >"$run.log" 2>&1
}
export -f one
printf '%s\n' {fast,plain}-{0,1,2} | xargs -P "${CORES:-$(nproc)}" -I{} bash -c 'one {}'
python "$here/collect.py" "$runs"
