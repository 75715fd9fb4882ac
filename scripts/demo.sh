#!/usr/bin/env bash
# A fresh machine, first command: install, then verify, validate and use an embedded weight; results go to out/.
source "$(dirname "$0")/environment.sh" plot
HF_HUB_OFFLINE=1 $python -m zoo demo --output out
