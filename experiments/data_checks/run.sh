#!/usr/bin/env bash
# bash experiments/data_checks/run.sh [overrides of mbgan.prepare]: minutes, most of them to draw 1,400 pictures once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
prepared=$(mktemp -d)
trap 'rm -rf "$prepared"' EXIT
folders=()

for seed in 0 1; do
  root=$(python "$here/draw.py" "$seed")
  python -m mbgan.prepare data.root="$root" out="$prepared/$seed" forecast=false "$@"
  folders+=("$root" "$prepared/$seed")
done
python "$here/score.py" "${folders[@]}"
