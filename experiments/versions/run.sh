#!/usr/bin/env bash
# Tests mbgan with the oldest or the newest versions that pyproject.toml allows of what it names itself:
#   bash experiments/versions/run.sh oldest python3.10            # the whole suite: an hour or more on one core
#   bash experiments/versions/run.sh newest python3.13 tests/networks tests/metrics
# Needs that Python, a package index and 12 GB below $TMPDIR, which are freed again (KEEP=1 keeps them).
set -euo pipefail
cd "$(dirname "$0")/../.."
which=$1 python=$2
shift 2
declare -A resolution=([oldest]=lowest-direct [newest]=highest)
scratch=${TMPDIR:-/tmp}/mbgan-versions-$which
[ "${KEEP:-}" ] || trap 'rm -rf "$scratch"' EXIT

if [ ! -e "$scratch/.ready" ]; then
  "$python" -m venv --without-pip "$scratch/venv"
  python3 -m venv "$scratch/uv"
  "$scratch/uv/bin/pip" install --quiet uv   # pip cannot be asked for the oldest versions
  UV_CACHE_DIR="$scratch/cache" "$scratch/uv/bin/uv" pip install --python "$scratch/venv/bin/python" \
    --compile-bytecode --resolution "${resolution[$which]}" --editable '.[dev]'
  touch "$scratch/.ready"
fi
export OMP_NUM_THREADS=1 MBGAN_CACHE="$scratch/mbgan"
"$scratch/venv/bin/python" -m pytest -q --junit-xml "$scratch/tests.xml" "$@" || true   # failures are what is asked for
"$scratch/venv/bin/python" experiments/versions/collect.py "$which" "$scratch/tests.xml" "$@"
