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
source evals/on_gpu_gate_run.sh
on_one() {
    gate "$@" --device cuda --json
    tail -n 1 "$out/$2.txt" >"$out/$2.json"
}
for candidate in hf_experts torch_dense trtllm_gen triton_moe; do
    on_one 0 "$candidate" --candidate "$candidate" --full
done
on_one 0 triton_moe_until_certain --candidate triton_moe
on_one 1 trtllm_gen-biases_not_shuffled --candidate trtllm_gen --fault biases_not_shuffled
exit $failed
