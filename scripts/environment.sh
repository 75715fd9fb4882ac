# Sourced by the other scripts: makes the virtual environment .venv and installs this checkout into it, once.
# pip chooses torch and torchvision, so that the two builds fit each other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=$1 # of pyproject.toml, with commas between them
python=.venv/bin/python
if ! $python -c "import sys" 2>/dev/null; then
  "${PYTHON:-python3}" -m venv .venv
fi
stamp=.venv/installed-$extras
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  $python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
  touch "$stamp"
fi
