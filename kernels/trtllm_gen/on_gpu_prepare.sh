#!/usr/bin/env bash
# One errand on a machine with a GPU and no network: the preparation's bytes and speed.
#   kernels/trtllm_gen/on_gpu_prepare.sh OUT
# Every step runs, whatever the ones before it said; OUT/summary.txt has the exit codes
# and the last line of each step, which of the benchmarks is their JSON.
set -uo pipefail
out=$1
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/../.."
source kernels/on_gpu_install.sh
run=$(mktemp -d)
failed=0
step() {
    local name=$1 code
    shift
    timeout 280 "$@" >"$run/$name.txt" 2>&1
    code=$?
    [ "$code" -eq 0 ] || failed=1
    cat "$run/$name.txt"
    { echo "$name: exit $code"; tail -n 1 "$run/$name.txt"; } >>"$out/summary.txt"
    [ "$code" -eq 0 ] || tail -n 60 "$run/$name.txt" >>"$out/failures.txt"
}
bench() {
    step "$1" python3 -c "from mxmoe.conformance.commands.main import main; main()" \
        bench prepare --device cuda --repeats 21 --json --run-dir "$run/$1" "${@:2}"
}
step bytes python3 -m pytest -q -p no:cacheprovider tests/test_kernels_prepare_cuda.py
bench views-tp1
bench triton-tp1 --mover triton
bench views-tp8 --tp 8 --rank 7
bench triton-tp8 --tp 8 --rank 7 --mover triton
cat "$out/summary.txt"
exit $failed
