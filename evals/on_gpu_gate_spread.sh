#!/usr/bin/env bash
# One errand on a machine with two GPUs or more and no network: the gate with the
# layers of the model that ships spread over them by accelerate (--device auto).
#   evals/on_gpu_gate_spread.sh OUT
# OUT/NAME.txt has what was printed, OUT/NAME.json the run's facts, with the device of
# each layer. Exits with 1 if a correct candidate does not pass, a planted fault does not
# fail, or all layers lie on one GPU; with 3 without two GPUs or accelerate.
set -uo pipefail
out=$1
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
python3 -c "import accelerate, torch; raise SystemExit(torch.cuda.device_count() < 2)" || {
    echo "expected two GPUs and accelerate" >&2
    exit 3
}
source kernels/on_gpu_install.sh
runs=$(mktemp -d)
failed=0
gate() {
    local expected=$1 name=$2 begun=$SECONDS code
    shift 2
    timeout "${GATE_SECONDS:-300}" \
        python3 -c "from mxmoe.conformance.commands.main import main; main()" gate \
        --device auto --dtype bfloat16 --batch 256 --run-dir "$runs/$name" "$@" \
        >"$out/$name.txt" 2>&1
    code=$?
    [ "$code" -eq "$expected" ] || failed=1
    cp "$runs/$name/run.json" "$out/$name.json" || failed=1
    python3 - "$out/$name.json" <<'PYTHON' || failed=1
import json, sys
devices = json.load(open(sys.argv[1])).get("layer_devices", [])
print("layers on", " ".join(devices) or "no device")
raise SystemExit(len(set(devices)) < 2)
PYTHON
    echo "$name: exit $code, $((SECONDS - begun)) s: $(tail -n 1 "$out/$name.txt" | cut -c1-300)"
}
for candidate in torch_dense trtllm_gen triton_moe; do
    gate 0 "$candidate" --candidate "$candidate"
done
gate 1 trtllm_gen-biases_not_shuffled --candidate trtllm_gen --fault biases_not_shuffled
exit $failed
