#!/bin/sh
# Minutes on one core. DIR: a folder of real images, such as the oral histology set that the README cites.
# The libraries compared: pip install --no-deps invisible-watermark blind-watermark PyWavelets
set -e
cd "$(dirname "$0")"
python measure.py "${1:?run.sh DIR}" 300
