"""The folder of an evaluation."""

from __future__ import annotations

import os
from pathlib import Path

from monitor.errors import FeaturewatchError
from training.evaluation.page.page import EVAL_HTML, page
from training.evaluation.report import EVAL_JSON, EvalReport


def require_free(folder: Path, *, replace: bool) -> None:
    """Raises FeaturewatchError when the folder holds an evaluation or cannot be written, before the model is run."""
    held = [name for name in (EVAL_JSON, EVAL_HTML) if (folder / name).exists()]
    if held and not replace:
        raise FeaturewatchError(
            f"evaluation {folder / held[0]}", "it exists already", "give another --out or --replace to overwrite it"
        )
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise FeaturewatchError(
            f"output folder {folder}", f"{there} must be a folder that can be written to", "give another --out"
        )


def write_evaluation(report: EvalReport, folder: Path) -> None:
    """Writes ``eval.json`` and ``eval.html``."""
    folder.mkdir(parents=True, exist_ok=True)
    report.save(folder)
    part = folder / f"{EVAL_HTML}.part"
    part.write_text(page(report), encoding="utf-8")
    part.replace(folder / EVAL_HTML)
