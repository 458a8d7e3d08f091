# Sourced behind kernels/on_gpu_install.sh, with OUT in $out: `gate` for several runs.
# What fails is remembered in $failed.
runs=$(mktemp -d)
failed=0
# gate EXPECTED_EXIT_CODE NAME [mxmoe gate options]: $out/NAME.txt has what was printed.
gate() {
    local expected=$1 name=$2 begun=$SECONDS code
    shift 2
    timeout "${GATE_SECONDS:-300}" \
        python3 -c "from mxmoe.conformance.commands.main import main; main()" gate \
        --dtype bfloat16 --batch 256 --run-dir "$runs/$name" "$@" >"$out/$name.txt" 2>&1
    code=$?
    [ "$code" -eq "$expected" ] || failed=1
    echo "$name: exit $code, $((SECONDS - begun)) s: $(tail -n 1 "$out/$name.txt" | cut -c1-300)"
}
