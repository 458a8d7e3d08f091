#!/usr/bin/env bash
# One errand on a machine with a GPU and no network: the gate on the model that ships,
# all questions, in bfloat16, with every bundled candidate that computes there.
#   evals/on_gpu_gate.sh OUT
# OUT/CANDIDATE.json has the verdict, OUT/CANDIDATE.txt what was printed. Exits with 1
# if a correct candidate does not pass, or a planted fault does not fail.
set -uo pipefail
out=$1
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
source kernels/on_gpu_install.sh
runs=$(mktemp -d)
failed=0
gate() {
    local expected=$1 name=$2 begun=$SECONDS code
    shift 2
    timeout "${GATE_SECONDS:-300}" \
        python3 -c "from mxmoe.conformance.commands.main import main; main()" gate \
        --device cuda --dtype bfloat16 --batch 256 --run-dir "$runs/$name" --json "$@" \
        >"$out/$name.txt" 2>&1
    code=$?
    [ "$code" -eq "$expected" ] || failed=1
    echo "$name: exit $code, $((SECONDS - begun)) s: $(tail -n 1 "$out/$name.txt" | cut -c1-300)"
    tail -n 1 "$out/$name.txt" >"$out/$name.json"
}
for candidate in hf_experts torch_dense trtllm_gen triton_moe; do
    gate 0 "$candidate" --candidate "$candidate" --full
done
gate 0 triton_moe_until_certain --candidate triton_moe
gate 1 trtllm_gen-biases_not_shuffled --candidate trtllm_gen --fault biases_not_shuffled
exit $failed
