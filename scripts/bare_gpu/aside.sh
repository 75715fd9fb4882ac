#!/usr/bin/env bash
# The tracked tree travels with every command to a bare machine. This makes room in it:
#
#   bash scripts/bare_gpu/aside.sh size          tracked bytes, by folder
#   bash scripts/bare_gpu/aside.sh out FOLDER    moves staged weights, checkpoints and the tests' golden files to FOLDER
#   bash scripts/bare_gpu/aside.sh back FOLDER   moves them back; until then commit nothing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
case "${1:-} ${2:+folder}" in
  "size ")
    git ls-files -z | while IFS= read -r -d '' file; do
      if [ -e "$file" ]; then printf '%s %s\n' "$(wc -c <"$file")" "${file%%/*}"; fi
    done | awk '{all += $1; by[$2] += $1} END {for (f in by) printf "%12d %s\n", by[f], f; printf "%12d all\n", all}' |
      sort -n
    ;;
  "out folder")
    git ls-files hub checkpoints tests/golden | { grep -E '\.(safetensors|pt)$' || true; } | while IFS= read -r file; do
      if [ -e "$file" ]; then
        mkdir -p "$2/$(dirname "$file")"
        mv -n "$file" "$2/$file"
      fi
    done
    ;;
  "back folder")
    here=$PWD
    cd "$2"
    find . -type f | while IFS= read -r file; do
      mkdir -p "$here/$(dirname "$file")"
      mv -n "$file" "$here/$file"
    done
    ;;
  *)
    echo "usage: bash scripts/bare_gpu/aside.sh size | out FOLDER | back FOLDER" >&2
    exit 2
    ;;
esac
