#!/usr/bin/env bash
# bash experiments/quick_start/run.sh: what make train does, at both magnifications.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
runs=$(mktemp -d)
mkdir -p "$here/figures"

for magnification in 10x 100x; do
  python -m mbgan.train experiment=quick_start extractor=efficientnet_lite0 \
    magnification=$magnification hydra.run.dir="$runs/$magnification"
  cp "$runs/$magnification/metrics.csv" "$here/results_$magnification.csv"
done
python "$here/panel.py" "$runs"
