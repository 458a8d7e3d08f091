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
source evals/on_gpu_gate_run.sh
spread() {
    gate "$@" --device auto
    cp "$runs/$2/run.json" "$out/$2.json" || failed=1
    python3 - "$out/$2.json" <<'PYTHON' || failed=1
import json, sys
devices = json.load(open(sys.argv[1])).get("layer_devices", [])
print("layers on", " ".join(devices) or "no device")
raise SystemExit(len(set(devices)) < 2)
PYTHON
}
for candidate in torch_dense trtllm_gen triton_moe; do
    spread 0 "$candidate" --candidate "$candidate"
done
spread 1 trtllm_gen-biases_not_shuffled --candidate trtllm_gen --fault biases_not_shuffled
exit $failed
