"""Runs before any test of the checkout, also for ``python -m pytest`` and torchrun.

Both put the checkout on ``sys.path``, where ``kernels``, ``reference``, ``evals``
and ``conformance`` would become top-level packages: a package called ``kernels`` is
looked for by transformers, vLLM and SGLang. The packages are ``mxmoe.*`` only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != CHECKOUT]
os.environ["PYTHONSAFEPATH"] = "1"
