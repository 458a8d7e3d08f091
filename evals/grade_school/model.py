"""The trained model that ships inside: a folder in Hugging Face's MXFP4 layout.

Its README.md is the model card. `mxmoe.evals.train_grade_school` made it.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "trained_model"
