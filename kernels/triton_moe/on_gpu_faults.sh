#!/usr/bin/env bash
# One errand on a machine with a GPU and no network: the suite on copies of the Triton
# path with one wrong line each.
#   kernels/triton_moe/on_gpu_faults.sh OUT
set -uo pipefail
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
source kernels/on_gpu_install.sh
work=$(mktemp -d)
python3 -m mxmoe.evals.judge_source_faults "$work" --jobs 8 | tee "$out/table.txt"
code=${PIPESTATUS[0]}
cat "$work"/*.txt >"$out/texts.txt"
exit "$code"
