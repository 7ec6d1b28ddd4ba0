"""Files that look like an SAE's and are something else: refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from monitor.errors import FeaturewatchError
from monitor.sae.formats.stored import Stored

WHAT: Final = {
    "transcoder": "a transcoder, which predicts one site from another",
    "crosscoder": "a crosscoder, which reads several sites at once",
    "cross-layer transcoder": "a cross-layer transcoder, which writes to several layers",
    "Lorsa": "a Lorsa, which replaces an attention layer and reads other tokens",
    "MOLT": "a MOLT, which sums low-rank maps and has no decoder directions",
    "temporal SAE": "a temporal SAE, whose latents depend on earlier tokens",
    "GLU encoder": "an SAE with a gated linear unit as encoder, whose latents are no half-spaces",
    "signed SAE": "an SAE whose latents can be negative",
    "matching pursuit SAE": "a matching pursuit SAE, which encodes by iteration",
    "identity dictionary": "the identity, which has no latents",
}
_TYPES: Final = {
    "transcoder": "transcoder",
    "skip_transcoder": "transcoder",
    "jumprelu_transcoder": "transcoder",
    "jumprelu_skip_transcoder": "transcoder",
    "crosscoder": "crosscoder",
    "clt": "cross-layer transcoder",
    "lorsa": "Lorsa",
    "molt": "MOLT",
    "temporal": "temporal SAE",
    "abstopk": "signed SAE",
    "matching_pursuit": "matching pursuit SAE",
    "CrossCoder": "crosscoder",
    "BatchTopKCrossCoder": "crosscoder",
    "IdentityDict": "identity dictionary",
}
_TELLING: Final[dict[str, list[tuple[str, ...]]]] = {
    "Lorsa": [("W_Q", "W_K")],
    "temporal SAE": [("D", "E", "b")],
    "GLU encoder": [("W_E_glu",)],
    "transcoder": [("W_skip",), ("affine_skip_connection",)],
}
_MATRICES: Final = {
    "crosscoder": ("W_enc", "w_enc", "encoder.weight"),
    "cross-layer transcoder": ("W_dec", "w_dec", "decoder.weight"),
}


def refuse_what_is_no_sae(stored: Stored) -> None:
    """Raises FeaturewatchError naming what the files hold instead of an SAE of one site."""
    kind = _kind(stored)
    if kind is not None:
        raise FeaturewatchError(
            f"{stored.weights}: {WHAT[kind]}",
            "featurewatch reads SAEs: one site in, the same site out, one row at a time",
            "choose an SAE of the site that you want to watch",
        )


def _kind(stored: Stored) -> str | None:
    """What the configuration says, else what the tensors show, else whether it leads from one site to another."""
    config = stored.config
    trainer = config.get("trainer")
    said = [config.get("architecture"), config.get("sae_type")]
    said += [trainer.get("dict_class")] if isinstance(trainer, dict) else []
    for name in said:
        if isinstance(name, str) and name in _TYPES:
            return _TYPES[name]
    if config.get("use_glu_encoder"):
        return "GLU encoder"
    return _by_tensors(stored) or ("transcoder" if _leads_elsewhere(config) else None)


def _by_tensors(stored: Stored) -> str | None:
    names = set(stored.tensors)
    for kind, telling in _TELLING.items():
        if any(set(some) <= names for some in telling):
            return kind
    for kind, matrices in _MATRICES.items():
        if any(stored.tensors[name].ndim == 3 for name in matrices if name in names):
            return kind
    return None


def _leads_elsewhere(config: Mapping[str, Any]) -> bool:
    pairs = [
        ("hook_point_in", "hook_point_out"),
        ("hf_hook_point_in", "hf_hook_point_out"),
        ("hook_name", "hook_name_out"),
    ]
    sites = [(config.get(into), config.get(out)) for into, out in pairs]
    return bool(
        config.get("transcode")
        or config.get("affine_connection")
        or any(into and out and into != out for into, out in sites)
    )
