#!/usr/bin/env bash
# One errand on a machine with a GPU and no network: the MoE layer beside other people's.
#   evals/on_gpu_bench_moe.sh OUT [mxmoe bench moe options]
# OUT gets the table, the CSV and JSON files, the picture and what was said meanwhile.
# Pure-Python wheels that the machine lacks (typer, rich, ..., and that of
# tokenspeed-triton-kernels) are taken from wheels/.
set -uo pipefail
out=$1
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
pip=(python3 -m pip --disable-pip-version-check install --quiet --no-deps --root-user-action ignore)
for wheel in wheels/*.whl; do
    [ -e "$wheel" ] && "${pip[@]}" "$wheel"
done
"${pip[@]}" --no-build-isolation --editable . || exit 3
export PYTHONSAFEPATH=1
run=$(mktemp -d)/run
timeout 540 python3 -c "from mxmoe.conformance.commands.main import main; main()" \
    bench moe --run-dir "$run" "$@" 2>&1 | tee "$out/log.txt"
code=${PIPESTATUS[0]}
for file in run.json moe.csv bench.csv table.txt roofline.png; do
    [ -e "$run/$file" ] && cp "$run/$file" "$out/"
done
exit "$code"
