#!/usr/bin/env bash
# What a server learns from a gradient that was captured in a training of one's own; capture.py writes the files.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python capture.py
# Which of the suspects' images was it? suspects/3.png.
leakboard identify observation.safetensors --model net.py:build --weights weights.safetensors --candidates suspects/ --defense none
# And without suspects: the image itself, as rebuilt/victim-0-image-0.png.
leakboard attack observation.safetensors --model net.py:build --weights weights.safetensors --out rebuilt/ --defense none \
  --attack "inverting-gradients(iterations=300)"
