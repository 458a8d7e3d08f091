#!/usr/bin/env bash
# One errand on a machine with a GPU and no network: install this checkout beside the
# torch that is there, judge the bundled candidates on the GPU, keep the run directory.
#   kernels/on_gpu.sh OUT [mxmoe check options]
# Pure-Python wheels that the machine lacks (typer, rich, ...) are taken from wheels/.
set -euo pipefail
out=$1
shift
cd "$(dirname "$0")/.."
pip=(python3 -m pip --disable-pip-version-check install --quiet --no-deps --root-user-action ignore)
for wheel in wheels/*.whl; do
    [ -e "$wheel" ] && "${pip[@]}" "$wheel"
done
"${pip[@]}" --no-build-isolation --editable .
export HF_HUB_OFFLINE=1 PYTHONSAFEPATH=1
python3 -c "from mxmoe.conformance.commands.main import main; main()" \
    check --profile gpu --run-dir "$out/run" "$@" | tee "$out/check.txt"
