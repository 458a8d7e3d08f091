"""The wheel, installed beside the dependencies only, does what the checkout does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
SOURCES = ("reference", "kernels", "conformance", "evals")
FILES = ("pyproject.toml", "README.md", "LICENSE")


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONSAFEPATH", "PYTHONPATH")
    }
    done = subprocess.run(
        list(map(str, arguments)),
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def content(path: Path) -> tuple[str, bytes]:
    return path.name, path.read_bytes()


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the wheel and the libraries here, but without our checkout."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    source.mkdir()
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, source / name, ignore=ignored)
    for name in FILES:
        shutil.copy(CHECKOUT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(
        *pip,
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        root,
        source,
        cwd=root,
    )
    (wheel,) = root.glob("*.whl")
    venv.create(root / "venv", with_pip=False, symlinks=True)
    interpreter = root / "venv" / "bin" / "python"
    purelib = Path(
        run(
            interpreter,
            "-c",
            "import sysconfig; print(sysconfig.get_path('purelib'))",
            cwd=root,
        ).stdout.strip()
    )
    run(*pip, "install", "-q", "--no-deps", "--target", purelib, wheel, cwd=root)
    # A folder named in a .pth file is searched, but its own .pth files are not run:
    # the libraries are found, the editable install of the checkout is not.
    (purelib / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def test_the_wheel_holds_the_packages_and_no_tests_of_ours(python: Path) -> None:
    code = "import mxmoe.kernels, os; print(os.path.dirname(mxmoe.kernels.__file__))"
    home = Path(run(python, "-c", code, cwd=python.parent).stdout.strip()).parent
    assert CHECKOUT not in home.parents
    assert sorted(p.name for p in home.iterdir() if p.name != "__pycache__") == sorted(
        SOURCES
    )
    assert not list(home.rglob("golden"))
    templates = home / "evals" / "report" / "templates"
    assert sorted(path.name for path in templates.iterdir()) == [
        *("page.css", "page.html.j2", "page.js")
    ]
    model = home / "evals" / "grade_school" / "trained_model"
    trained = CHECKOUT / "evals" / "grade_school" / "trained_model"
    assert sorted(map(content, model.iterdir())) == sorted(
        map(content, trained.iterdir())
    )


def test_the_wheel_judges_a_candidate_from_another_folder(
    python: Path, tmp_path: Path
) -> None:
    words = "-m pytest -q --pyargs mxmoe.conformance --candidate torch_dense"
    only = ("-m", "bytewise", "-k", "layer0-tp1 or decode")
    done = run(python, *words.split(), *only, cwd=tmp_path)
    assert " passed" in done.stdout
    assert str(CHECKOUT) not in done.stdout


def test_the_wheel_brings_the_command(python: Path, tmp_path: Path) -> None:
    code = "from mxmoe.conformance.commands.main import main; main()"
    done = run(python, "-c", code, "make-checkpoint", "made", cwd=tmp_path)
    assert done.stdout.startswith("made: 2 layers e8k4h160i224, seed 0")
    words = "check --candidate torch_dense --checkpoint made -k decode"
    done = run(python, "-c", code, *words.split(), cwd=tmp_path)
    assert done.stdout.splitlines()[-1].startswith("verdict: PASS torch_dense")
