#!/usr/bin/env bash
# bash experiments/faults/injected.sh: does every damage of tests/faults/test_injected.py and writes injected.csv;
# as root, or the mounts are skipped; 5 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
export MBGAN_FAULTS="$PWD/experiments/faults/injected.csv"
echo fault,expected,seen,test > "$MBGAN_FAULTS"
python -m pytest -q tests/faults/test_injected.py -m "slow or not slow"
