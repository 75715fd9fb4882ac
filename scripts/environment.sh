# Sourced by the other scripts: makes the virtual environment .venv and installs this checkout into it, once.
# pip chooses torch and torchvision, so that the two builds fit each other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extra=$1
python=.venv/bin/python
if ! $python -c "import sys" 2>/dev/null; then
  "${PYTHON:-python3}" -m venv .venv
fi
stamp=.venv/installed-$extra
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  $python -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
  touch "$stamp"
fi
