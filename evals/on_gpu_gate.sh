#!/usr/bin/env bash
# One errand on a machine with a GPU and no network: the gate on the model that ships,
# all questions, in bfloat16, with every bundled candidate that computes there.
#   evals/on_gpu_gate.sh OUT
# OUT/CANDIDATE.json has the verdict, OUT/CANDIDATE.txt what was printed.
# Pure-Python wheels that the machine lacks (typer, rich, ...) are taken from wheels/.
set -uo pipefail
out=$1
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
pip=(python3 -m pip --disable-pip-version-check install --quiet --no-deps --root-user-action ignore)
for wheel in wheels/*.whl; do
    [ -e "$wheel" ] && "${pip[@]}" "$wheel"
done
"${pip[@]}" --no-build-isolation --editable . || exit 3
export PYTHONSAFEPATH=1 HF_HUB_OFFLINE=1
runs=$(mktemp -d)
gate() {
    local name=$1
    shift
    local begun=$SECONDS
    timeout "${GATE_SECONDS:-300}" \
        python3 -c "from mxmoe.conformance.commands.main import main; main()" gate \
        --device cuda --dtype bfloat16 --batch 256 --run-dir "$runs/$name" --json "$@" \
        >"$out/$name.txt" 2>&1
    echo "$name: exit $?, $((SECONDS - begun)) s: $(tail -n 1 "$out/$name.txt" | cut -c1-300)"
    tail -n 1 "$out/$name.txt" >"$out/$name.json"
}
for candidate in hf_experts torch_dense trtllm_gen triton_moe; do
    gate "$candidate" --candidate "$candidate" --full
done
gate triton_moe_until_certain --candidate triton_moe
gate trtllm_gen-biases_not_shuffled --candidate trtllm_gen --fault biases_not_shuffled
