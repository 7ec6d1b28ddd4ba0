"""Loads models and tokenizers with transformers, quietly and with errors that help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from monitor.errors import FeaturewatchError


def load_tokenizer(model: str) -> Any:
    """A model's fast tokenizer; raises FeaturewatchError."""
    from transformers import AutoTokenizer

    tokenizer = load_quietly(model, lambda: AutoTokenizer.from_pretrained(model))
    if not tokenizer.is_fast:
        raise FeaturewatchError(
            f"tokenizer of {model}", "a fast tokenizer (tokenizer.json) is needed", "convert it with transformers"
        )
    return tokenizer


def load_quietly(model: str, load: Callable[[], Any]) -> Any:
    """Calls `load` for `model` without transformers' reports; raises FeaturewatchError where it cannot be loaded."""
    if not model:
        raise FeaturewatchError("model ''", "a Hugging Face folder or id is needed", "name one")
    if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
        raise FeaturewatchError(
            f"model folder {model}", "there is no such folder", "fetch one with `featurewatch model fetch smollm2`"
        )
    from transformers.utils import logging

    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    # Its report lists the layers and the head that a cut leaves out as unexpected, which is what a cut is for.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load()
    except ImportError as error:
        raise FeaturewatchError(
            f"model {model!r} ({_first_line(error)})",
            "transformers needs a package for it that is not installed",
            "install the package that is named, or use a model that needs none",
        ) from error
    except SafetensorError as error:
        raise FeaturewatchError(
            f"model {model!r} ({_first_line(error)})",
            "its .safetensors files must be whole",
            "fetch the model again: a download or copy that broke off leaves such a file",
        ) from error
    except (OSError, ValueError) as error:
        raise FeaturewatchError(
            f"model {model!r} ({_first_line(error)})",
            "it must be a Hugging Face folder or id that transformers can load",
            "check the path, or fetch one with `featurewatch model fetch smollm2`",
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
