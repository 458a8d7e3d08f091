#!/usr/bin/env bash
# One errand on a machine with a GPU and no network: how often does the suite cry wolf?
#   kernels/on_gpu_clean_cases.sh OUT
# Correct variants on drawn cases: PROCESSES processes on the CPU with CASES pairs each,
# and one on the GPU's tensor cores with GPU_CASES. OUT/summary.txt has what each said.
# Exits with 1 if one of them failed.
set -uo pipefail
out=$1
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
source kernels/on_gpu_install.sh
export OMP_NUM_THREADS=1
logs=$(mktemp -d)
night() {
    local name=$1 cases=$2 test=$3
    MXMOE_CLEAN_CASES=$cases timeout "${PART_SECONDS:-480}" python3 -m pytest -q -s \
        -p no:cacheprovider -m nightly "tests/test_conformance_clean_cases.py::$test" \
        >"$logs/$name.txt" 2>&1
    echo "== $name, $cases pairs: exit $?" >"$logs/$name.end"
}
[ "${GPU_CASES:-3000}" -eq 0 ] || night gpu "${GPU_CASES:-3000}" \
    test_no_clean_pair_on_tensor_cores_is_out_of_bound_or_systematic &
for number in $(seq "${PROCESSES:-12}"); do
    night "cpu$number" "${CASES:-8000}" \
        test_no_clean_pair_of_a_night_is_out_of_bound_or_systematic &
done
wait
for end in "$logs"/*.end; do
    cat "$end"
    tail -n 24 "${end%.end}.txt" | cut -c1-400
done >"$out/summary.txt"
cat "$out/summary.txt"
! grep -qv ': exit 0$' "$logs"/*.end
