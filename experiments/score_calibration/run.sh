#!/usr/bin/env bash
# bash experiments/score_calibration/run.sh DIR: both questions of question.md, the oral histology images being in DIR.
# Three quarters of an hour on two cores; what was extracted is kept in ~/.cache/mbgan.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# Keeps freed memory, which halves the time of feature extraction.
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592
python "$here/calibrate.py" "$1"
python "$here/calibrate.py"
python "$here/sensitivity.py" "$1"
