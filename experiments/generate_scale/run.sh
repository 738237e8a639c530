#!/bin/sh
# Ten minutes on one core, 300 MB of disk for as long as it runs. OUT: a folder for the generator.
set -e
OUT=${1:?run.sh OUT}
export OMP_NUM_THREADS=1
python -m mbgan.train experiment=quick_start image_size=32 total_images=640 eval_every=640 "hydra.run.dir=$OUT"
python "$(dirname "$0")/measure.py" "$OUT"
