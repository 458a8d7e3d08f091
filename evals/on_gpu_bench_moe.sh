#!/usr/bin/env bash
# One errand on a machine with a GPU and no network: the MoE layer beside other people's.
#   evals/on_gpu_bench_moe.sh OUT [mxmoe bench moe options]
# OUT gets the table, the CSV and JSON files, the picture and what was said meanwhile.
# The wheel of tokenspeed-triton-kernels is taken from wheels/, if it is there.
set -uo pipefail
out=$1
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
source kernels/on_gpu_install.sh
run=$(mktemp -d)/run
timeout 540 python3 -c "from mxmoe.conformance.commands.main import main; main()" \
    bench moe --run-dir "$run" "$@" 2>&1 | tee "$out/log.txt"
code=${PIPESTATUS[0]}
for file in run.json moe.csv bench.csv table.txt roofline.png; do
    [ -e "$run/$file" ] && cp "$run/$file" "$out/"
done
exit "$code"
