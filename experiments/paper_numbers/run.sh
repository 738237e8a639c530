#!/usr/bin/env bash
# bash experiments/paper_numbers/run.sh DIR OUT: both questions of question.md, the oral histology images being in DIR.
# Features are kept in OUT: 20 minutes on one core, then a few minutes to score.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# Keeps freed memory, which halves the time of feature extraction.
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592
python "$here/features.py" "$1" "$2"
python "$here/measure.py" "$2"
