#!/usr/bin/env bash
# One command on a bare GPU machine, in the root of the copied tree:
#
#   bash scripts/bare_gpu/there.sh [TIME]     TIME: budget of the queue, such as 8m; without it nothing is trained
#
# Takes over what came in CARRY (wheels, parts of CIFAR-10, data folders, a parcel of runs), trains the queue for TIME
# and gives what changed to OUT. What must outlive the command is in KEEP.
#   CARRY  build/carry    KEEP  /tmp/zoo    OUT  where files that come back are put (needed)
#   QUEUE  a queue file of your own    GIVE  options of parcel.py give, such as "--half-above 25"
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
carry=${CARRY:-build/carry} keep=${KEEP:-/tmp/zoo} out=${OUT:?set OUT to the folder whose files come back}
python=${PYTHON:-python3}
mkdir -p "$keep/data" "$keep/runs"

if compgen -G "$carry/*.whl" >/dev/null; then
  $python -m pip install --quiet --no-index --no-deps --upgrade --target "$keep/site" "$carry"/*.whl || exit
fi
export PYTHONPATH="$keep/site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
for part in "$carry"/part-*/; do
  if [ -e "$part/index.json" ]; then $python scripts/bare_gpu/cifar.py unpack "$part" "$keep/data/cifar10" || exit; fi
done
for name in fashion-mnist wikitext-2 ptb; do
  if [ -d "$carry/$name" ]; then cp -r "$carry/$name" "$keep/data/" || exit; fi
done
if [ -e "$carry/parcel.json" ]; then $python scripts/bare_gpu/parcel.py take "$carry" "$keep/runs" || exit; fi

code=0
if [ -n "${1:-}" ]; then
  data=()
  for folder in "$keep"/data/*/; do
    name=$(basename "$folder")
    if [ ! -e "$folder/sheets" ]; then data+=(--data "$name=$folder"); fi
  done
  if [ ${#data[@]} = 0 ]; then
    echo "no data set is whole yet: carry the other parts, or leave TIME out" >&2
    exit 1
  fi
  $python -m zoo train --queue ${QUEUE:+"$QUEUE"} --budget "$1" "${data[@]}" --output "$keep/runs" || code=$?
fi
# shellcheck disable=SC2086
$python scripts/bare_gpu/parcel.py give ${GIVE:-} "$keep/runs" "$out" || code=$?
exit $code
