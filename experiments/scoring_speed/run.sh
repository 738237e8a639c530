#!/usr/bin/env bash
# bash experiments/scoring_speed/run.sh: both tables of question.md, on an idle machine; 20 minutes on two cores.
set -euo pipefail
python "$(dirname "$0")/measure.py"
