#!/usr/bin/env bash
# One errand on a machine with two GPUs and no network: install this checkout beside
# the torch that is there, judge tensor and expert parallel layer steps with one rank a
# GPU and NCCL between them, keep the run directory.
#   kernels/on_two_gpus.sh OUT [mxmoe check options]
set -euo pipefail
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
source kernels/on_gpu_install.sh
# NVLink multicast adds nothing to a sum of two, and a program that breaks in it can
# leave a shared host's GPUs unusable.
export NCCL_NVLS_ENABLE=0
python3 -c "import torch; n = torch.cuda.device_count(); print(n, 'GPUs, NCCL', torch.cuda.nccl.version()); assert n >= 2, 'needs two GPUs'" | tee "$out/gpus.txt"
# Four ranks need four GPUs: with two, that check says so and is not run.
python3 -c "from mxmoe.conformance.commands.main import main; main()" \
    check --candidate torch_dense --device cuda -m distributed --profile gpu \
    --run-dir "$out/run" "$@" | tee "$out/check.txt"
