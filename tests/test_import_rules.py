"""Who may import whom, and that every file is one module under one name."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = ("reference", "kernels", "conformance", "evals")

# A package may import itself and these. `kernels` sees of the reference its types
# and constants only.
MAY_IMPORT = {
    "reference": ("mxmoe.reference",),
    "kernels": (
        "mxmoe.kernels",
        "mxmoe.reference.errors",
        "mxmoe.reference.types",
    ),
    "conformance": ("mxmoe.conformance", "mxmoe.reference"),
    "evals": ("mxmoe",),
}

# Run inside the process under test: duplicates of one file, and what leaked.
PROBE = """
import collections, importlib.util, json, os, sys
import mxmoe.conformance.checks, mxmoe.kernels, mxmoe.reference
root = os.path.dirname(os.path.dirname(os.path.realpath(mxmoe.kernels.__file__)))
ours = [os.path.join(root, p, "") for p in
        ("reference", "kernels", "conformance", "evals")]
names = collections.defaultdict(list)
for name, module in list(sys.modules.items()):
    file = os.path.realpath(getattr(module, "__file__", None) or "/")
    if file.startswith(tuple(ours)):
        names[file].append(name)
assert len(names) > 3, "the probe sees nothing"
print(json.dumps({
    "twice": {f: n for f, n in names.items() if len(n) > 1},
    "leaked": [n for n in ("reference", "kernels", "conformance", "evals")
               if n in sys.modules or importlib.util.find_spec(n) is not None],
    "home": os.path.dirname(os.path.realpath(mxmoe.kernels.__file__)),
}))
"""


def python_files(package: str) -> list[Path]:
    return sorted((CHECKOUT / package).rglob("*.py"))


def imported_modules(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_in_one_direction_only(package: str) -> None:
    for path in python_files(package):
        for name in imported_modules(path):
            inside = name == "mxmoe" or name.startswith("mxmoe.")
            assert not inside or name.startswith(MAY_IMPORT[package]), (
                f"{path.relative_to(CHECKOUT)} imports {name}"
            )
            assert name.split(".")[0] not in PACKAGES, (
                f"{path} imports top-level {name}"
            )


def test_no_file_takes_the_name_of_a_library() -> None:
    libraries = {"triton", "torch", "transformers", "numpy", "scipy", "hypothesis"}
    for package in PACKAGES:
        assert not {p.stem for p in python_files(package)} & libraries


def run(
    arguments: list[str], cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONSAFEPATH", "PYTHONPATH")
    }
    return subprocess.run(
        arguments,
        cwd=cwd,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def probe_result(output: str) -> dict[str, object]:
    _, found, rest = output.rpartition('{"twice"')
    assert found, output
    result: dict[str, object] = json.loads(found + rest.splitlines()[0])
    return result


@pytest.fixture
def probe_plugin(tmp_path: Path) -> Path:
    """A pytest plugin that runs the probe after the tests of its session."""
    body = textwrap.indent(PROBE, "    ")
    text = f"def pytest_sessionfinish():\n{body}"
    (tmp_path / "import_probe.py").write_text(text, encoding="utf-8")
    return tmp_path


# One quick check of one candidate: what matters is how it is collected.
QUICK = ["-q", "-s", "--candidate", "torch_dense", "-k", "decode or unmodified"]


def test_python_m_pytest_in_the_checkout_has_one_module_a_file(
    probe_plugin: Path,
) -> None:
    """It puts the checkout on sys.path; the root conftest takes it off."""
    done = run(
        [sys.executable, "-m", "pytest", "-p", "import_probe", *QUICK, "conformance"],
        CHECKOUT,
        PYTHONPATH=str(probe_plugin),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = probe_result(done.stdout)
    assert found["twice"] == {}
    assert found["leaked"] == []


def test_pyargs_outside_the_checkout_has_one_module_a_file(
    probe_plugin: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run(
        [
            *(sys.executable, "-m", "pytest", "-p", "import_probe"),
            *("--pyargs", "mxmoe.conformance", *QUICK),
        ],
        elsewhere,
        PYTHONPATH=str(probe_plugin),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = probe_result(done.stdout)
    assert found["twice"] == {}
    assert found["leaked"] == []


def test_a_child_of_a_checkout_test_has_one_module_a_file() -> None:
    """The root conftest hands PYTHONSAFEPATH down; this test's own process has it."""
    assert os.environ["PYTHONSAFEPATH"] == "1"
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = probe_result(done.stdout)
    assert found["twice"] == {}
    assert found["leaked"] == []


def test_ranks_of_torchrun_have_one_module_a_file(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(PROBE, encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = run(
        [*torchrun, "--nproc-per-node", "2", str(script)],
        CHECKOUT,
        PYTHONSAFEPATH="1",
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Ranks may write into the same line.
    found = re.findall(r'{"twice".*?"home": "[^"]*"}', done.stdout)
    results = [json.loads(result) for result in found]
    assert len(results) == 2
    assert all(found["twice"] == {} and found["leaked"] == [] for found in results)


def test_a_foreign_project_collects_as_before_and_without_torch(tmp_path: Path) -> None:
    """The plugin is loaded there, and must not be felt: they have their --device."""
    (tmp_path / "conftest.py").write_text(
        textwrap.dedent(
            """
            import sys

            def pytest_addoption(parser):
                parser.addoption("--device", default="mine")
                parser.addoption("--candidate", default="mine")

            def pytest_sessionfinish(session):
                names = ("torch", "numpy", "mxmoe.reference")
                heavy = [name for name in names if name in sys.modules]
                print("heavy:", heavy)
            """
        ),
        encoding="utf-8",
    )
    (tmp_path / "test_theirs.py").write_text(
        "def test_theirs(request):\n"
        "    assert request.config.getoption('--device') == 'mine'\n",
        encoding="utf-8",
    )
    with_us = run([sys.executable, "-m", "pytest", "-q", "-s", "--markers"], tmp_path)
    assert "bytewise" not in with_us.stdout
    done = run([sys.executable, "-m", "pytest", "-s"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "heavy: []" in done.stdout
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = run([sys.executable, "-m", "pytest"], empty)
    assert nothing.returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_importing_the_suite_does_not_import_torch() -> None:
    code = (
        "import sys, mxmoe.conformance, mxmoe.conformance.plugin; "
        "print('torch' in sys.modules)"
    )
    done = run([sys.executable, "-c", code], CHECKOUT.parent)
    assert done.stdout.strip() == "False", done.stderr
