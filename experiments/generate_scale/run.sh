#!/bin/sh
# A quarter of an hour on one core that nobody else uses. OUT: a new folder for the generator.
set -e
OUT=${1:?run.sh OUT}
cd "$(dirname "$0")"
export OMP_NUM_THREADS=1
python -m mbgan.train experiment=quick_start image_size=32 total_images=640 eval_every=640 "hydra.run.dir=$OUT"
rm -f results.csv
python measure.py "$OUT" 1000 10000 100000 watermark=null
python measure.py "$OUT" 1000 10000
