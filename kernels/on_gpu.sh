#!/usr/bin/env bash
# One errand on a machine with a GPU and no network: install this checkout beside the
# torch that is there, judge the bundled candidates on the GPU, keep the run directory.
#   kernels/on_gpu.sh OUT [mxmoe check options]
set -euo pipefail
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
source kernels/on_gpu_install.sh
python3 -c "from mxmoe.conformance.commands.main import main; main()" \
    check --profile gpu --run-dir "$out/run" "$@" | tee "$out/check.txt"
