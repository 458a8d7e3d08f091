#!/usr/bin/env bash
# One errand on a machine with a GPU and no network: train the model of grade_school.
#   evals/on_gpu_train.sh OUT [options of mxmoe.evals.train_grade_school]
# One call takes up to 9 minutes. It goes on from runs/grade_school, if that is there;
# an unfinished run comes back as OUT/state and OUT/log.jsonl: copy both to
# runs/grade_school and call again. A finished one leaves OUT/model, result.json and
# log.jsonl. At most 8 files, each below 16 MB.
# The first call measures the speed and chooses the steps, so that the whole run trains
# for 15 minutes; --steps N decides it instead, --fill M changes the minutes.
set -uo pipefail
out=$1
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
source kernels/on_gpu_install.sh
export CUBLAS_WORKSPACE_CONFIG=:4096:8
run=runs/grade_school
timeout 570 python3 -m mxmoe.evals.train_grade_school "$run" \
    --steps 0 --fill 15 --minutes 8.5 --reserve 1 "$@"
code=$?
if [ -e "$run/result.json" ]; then
    cp -r "$run/model" "$run/result.json" "$out/"
else
    [ -d "$run/state" ] && cp -r "$run/state" "$out/"
fi
[ -e "$run/log.jsonl" ] && cp "$run/log.jsonl" "$out/"
exit "$code"
