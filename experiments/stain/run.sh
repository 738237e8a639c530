#!/usr/bin/env bash
# bash experiments/stain/run.sh: drawn tissue in six slides' stain and light, normalized; a minute.
set -euo pipefail
python "$(dirname "$0")/sheet.py"
