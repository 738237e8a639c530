#!/usr/bin/env bash
# bash experiments/utility/run.sh DIR OUT [oral|phantom]: both studies, or one; the same command goes on where it was cut off.
# DIR holds the oral histology images of question.md, OUT gets the studies. About 4 CPU minutes a fold, 10 folds each.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$1 out=$2 only=${3:-}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$out"
same=(image_size=32 n_folds=5 n_repeats=2 'ratios=[0.5,1.0]' gan.model=projected gan.total_images=8_000
  'gan.also=["model.critic.input_size=64"]')  # half the preset's: it enlarges images by 2 as at 64 pixels

if [[ -z $only || $only == oral ]]; then
  python -m mbgan.utility data.root="$root" magnification=400x "${same[@]}" out="$out/oral"
fi
if [[ -z $only || $only == phantom ]]; then
  [[ -d $out/phantom_images ]] || { python "$here/draw.py" "$out/draft" && mv "$out/draft" "$out/phantom_images"; }
  python -m mbgan.utility data.root="$out/phantom_images" magnification=100x "${same[@]}" out="$out/phantom"
fi
python "$here/collect.py" "$out"
