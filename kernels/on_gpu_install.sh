# Sourced in the root of the checkout, on a machine with a GPU and no network: installs
# this checkout beside the torch that is there, or exits with 3.
# Pure-Python wheels that the machine lacks (typer, rich, ...) are taken from wheels/.
pip=(python3 -m pip --disable-pip-version-check install --quiet --no-deps --root-user-action ignore)
for wheel in wheels/*.whl; do
    [ ! -e "$wheel" ] || "${pip[@]}" "$wheel"
done
"${pip[@]}" --no-build-isolation --editable . || exit 3
export PYTHONSAFEPATH=1 HF_HUB_OFFLINE=1
