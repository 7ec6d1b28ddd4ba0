"""``cfg.json`` of SAELens before version 6 in the shape that it has since."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_RENAMED: Final = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_METADATA: Final = (
    "model_name",
    "hook_name",
    "hf_hook_name",
    "hook_head_index",
    "context_size",
    "prepend_bos",
    "dataset_path",
    "sae_lens_training_version",
    "neuronpedia_id",
)


def current_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as version 6 would write it; defaults are those of sae-lens 6.54."""
    metadata = config.get("metadata")
    version = config.get("sae_lens_version") or (metadata or {}).get("sae_lens_version")
    if version and int((re.match(r"\d+", str(version)) or ["0"])[0]) >= 6:
        new = dict(config)
    else:
        new = {_RENAMED.get(name, name): value for name, value in config.items()}
        arguments = new.get("activation_fn_kwargs") or {}
        if new.get("activation_fn") == "topk" and arguments.get("k") is not None:
            new |= {"architecture": "topk", "k": arguments["k"]}
        new["metadata"] = {name: new[name] for name in _METADATA if name in new} | dict(metadata or {})
    normalisation = new.get("normalize_activations")
    if normalisation in (None, False):
        new["normalize_activations"] = "none"
    elif normalisation is True:
        new["normalize_activations"] = "expected_average_only_in"
    return new
