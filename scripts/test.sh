#!/usr/bin/env bash
# A fresh machine, second command: install with everything the tests use, and run them. Arguments go to pytest.
source "$(dirname "$0")/environment.sh" all
$python -m ruff check .
$python -m ruff format --check .
exec $python -m pytest "$@"
