"""Models that travel inside registry packages, made into ordinary Hugging Face folders."""

from training.models.packaged import PACKAGED, PackagedModel
from training.models.paths import featurewatch_home, model_folder, resolve_model

__all__ = ["PACKAGED", "PackagedModel", "featurewatch_home", "model_folder", "resolve_model"]
