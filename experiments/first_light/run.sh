#!/usr/bin/env bash
# bash experiments/first_light/run.sh DIR [overrides]: DIR holds the oral histology images of question.md.
# Needs the dev extra (matplotlib) and about a quarter of an hour on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
run=$(mktemp -d)/first_light
mkdir -p "$here/figures"

python -m mbgan.train experiment=first_light data.root="$1" hydra.run.dir="$run" "${@:2}"

cp "$run/metrics.csv" "$here/results.csv"
cp "$run/scores.json" "$run/run.json" "$here/"
python "$here/figures.py" "$run/samples"
# What names the machine and its folders is nobody's business.
python - "$here" <<'PYTHON'
import json, pathlib, sys
for name, keys in {"run.json": ("machine",), "scores.json": ("run",)}.items():
    path = pathlib.Path(sys.argv[1], name)
    content = json.loads(path.read_text())
    for key in keys:
        content.pop(key, None)
    if "data" in content:
        content["data"].pop("root", None)
    path.write_text(json.dumps(content, indent=2) + "\n")
PYTHON
