"""Which dictionaries a policy can watch."""

from __future__ import annotations

from monitor.errors import FeaturewatchError
from monitor.sae.dictionary import Dictionary


def require_watchable(sae_id: str, dictionary: Dictionary) -> None:
    """Raises FeaturewatchError unless single latents can be computed from a row of `resid_post`."""
    if dictionary.hook_point.site != "resid_post":
        raise FeaturewatchError(
            f"SAE {sae_id!r} at {dictionary.hook_point}",
            "the tap reads resid_post, and a policy can only watch an SAE of that site",
            "name an SAE that was trained at resid_post",
        )
    if dictionary.input_norm != "none":
        raise FeaturewatchError(
            f"SAE {sae_id!r} with input normalisation {dictionary.input_norm}",
            "a policy watches latents of the row as the model has it",
            "name an SAE that was trained without normalisation of each row",
        )
    if not dictionary.decides_by_latent:
        raise FeaturewatchError(
            f"SAE {sae_id!r} with activation {type(dictionary.activation).__name__}",
            "whether a latent fires depends there on all others, and the tap computes only those that are watched",
            "give it thresholds: featurewatch sae convert SAE --out FOLDER --threshold-from ROWS --l0 K",
        )
