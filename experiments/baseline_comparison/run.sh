#!/usr/bin/env bash
# bash experiments/baseline_comparison/run.sh DIR RUNS: five models, two magnifications, three seeds; then the report.
# DIR holds the oral histology images of question.md, RUNS the run folders; the same command does what is missing. Each
# run has one core and about three CPU minutes of training: models.csv says how many images those are. CORES=1 runs
# one at a time. RUNS/report has the page and the sample panels, of which this folder keeps what is small.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$1 runs=$2
export OMP_NUM_THREADS=1

tail -n +2 "$here/models.csv" | while IFS=, read -r model images; do
  common=(model="$model" total_images="$images" eval_every=$((images / 4))
    hydra/launcher=joblib hydra.launcher.n_jobs="${CORES:-$(nproc)}")
  python -m mbgan.train -m "${common[@]}" experiment=small_data_recipe data.root="$root" \
    magnification=100x,400x seed=0,1,2 hydra.sweep.dir="$runs/oral/$model" </dev/null
  python -m mbgan.train -m "${common[@]}" extractor=efficientnet_lite2 trainer=cpu image_size=64 batch_size=16 \
    magnification=10x,100x seed=0 hydra.sweep.dir="$runs/phantom/$model" </dev/null
done
python -m mbgan.compare "runs=$runs" out="$runs/report" real_images=false
mkdir -p "$here/figures"
cp "$runs/report/report.md" "$runs/report/results.csv" "$here"
cp "$runs"/report/figures/*.svg "$here/figures"
