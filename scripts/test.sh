#!/usr/bin/env bash
# A fresh machine, second command: install with everything the tests use, and run them. Arguments go to pytest.
source "$(dirname "$0")/environment.sh" all,test
$python -m ruff check .
$python -m ruff format --check .
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # one process per core instead
exec $python -m pytest -n auto --dist worksteal "$@"
