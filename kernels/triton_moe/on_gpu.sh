#!/usr/bin/env bash
# One errand on a machine with a GPU and no network: everything of the Triton path but
# its speed, which is evals/on_gpu_bench_moe.sh.
#   kernels/triton_moe/on_gpu.sh OUT
# The suite under its gpu profile in parts side by side, because most of its time is
# Triton compiling; then the tests that need a GPU; then compute-sanitizer.
# OUT/summary.txt has the exit code and the last lines of each part.
# ONLY="laws state" runs these parts alone; PART_SECONDS is the limit of one part.
set -uo pipefail
set -m # else a part started with & would ignore the interrupt
out=$1
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/../.."
source kernels/on_gpu_install.sh
limit=${PART_SECONDS:-400}
logs=$(mktemp -d)
part() {
    local name=$1
    shift
    [[ " ${ONLY:-$name} " == *" $name "* ]] || return
    # Interrupted first: pytest then says what failed until there.
    timeout --signal INT --kill-after 20 "$limit" "$@" >"$logs/$name.txt" 2>&1
    echo $? >"$logs/$name.code"
}
check() {
    local name=$1
    shift
    part "$name" python3 -c "from mxmoe.conformance.commands.main import main; main()" \
        check --candidate triton_moe --profile gpu --run-dir "$logs/$name" "$@"
}
check formats_bytes_routing -k "l0 or l1 or l2" &
check output -k "test_output_stays_within_the_bound" &
check hot_spots -k "hot_spot or layer_output" &
check laws -k "l3_laws" &
check tactics -k "every_tactic" &
check numbers -k "unsystematic or token_count or not_finite or traced or fused" &
check state -k "l3_state" &
check ranks -k "l4" &
part tests python3 -m pytest -q -p no:cacheprovider -k "cuda and triton_moe" tests &
for file in tests/triton_moe/test_*.py; do
    part "kernel_$(basename "$file" .py)" python3 -m pytest -q -p no:cacheprovider \
        -p no:mxmoe -o addopts=--import-mode=importlib "$file" &
done
wait
# Each tensor in an allocation of its own, so that an access beyond it is seen; graphs
# cannot be captured then, and the tests that do are left out.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
sanitize() {
    part "$1" compute-sanitizer --tool "$1" --error-exitcode 9 \
        python3 -m pytest -q -p no:cacheprovider \
        tests/test_triton_moe_layer_cuda.py -k tactics_agree
}
sanitize memcheck &
sanitize racecheck &
wait
failed=0
for code in "$logs"/*.code; do
    name=$(basename "$code" .code)
    [ "$(cat "$code")" -eq 0 ] || failed=1
    { echo "== $name: exit $(cat "$code")"; tail -n 4 "$logs/$name.txt"; } >>"$out/summary.txt"
    [ "$(cat "$code")" -eq 0 ] || tail -n 60 "$logs/$name.txt" >>"$out/failures.txt"
done
cat "$out/summary.txt"
exit $failed
