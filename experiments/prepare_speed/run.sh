#!/usr/bin/env bash
# bash experiments/prepare_speed/run.sh [N]: draws N (10000) fields of 1 megapixel, 4 GB in TMPDIR, and prepares them; half an hour on two cores.
set -euo pipefail
python "$(dirname "$0")/measure.py" "${1:-10000}"
