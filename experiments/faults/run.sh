#!/bin/sh
# About ten minutes on a free core. DIR: a new folder, for images, runs and trials.
set -e
python "$(dirname "$0")/kills.py" "${1:?run.sh DIR}"
cp "$1/kills.csv" "$(dirname "$0")"
