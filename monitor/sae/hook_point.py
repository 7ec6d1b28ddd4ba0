"""Names of sites in the residual stream."""

from __future__ import annotations

import re
from dataclasses import dataclass

from monitor.errors import FeaturewatchError

_PATTERN = re.compile(r"resid_post\.(0|[1-9][0-9]{0,3})")
_TRANSFORMER_LENS = re.compile(r"blocks\.([0-9]+)\.hook_resid_post")
_HUGGING_FACE = re.compile(r"model\.layers\.([0-9]+)")


@dataclass(frozen=True, order=True)
class HookPoint:
    """``resid_post.<layer>``: the output of decoder layer `layer`, before the next norm.

    It equals ``hidden_states[layer + 1]`` of Hugging Face's ``output_hidden_states`` for every layer but the last
    (there Hugging Face has already applied the final norm).
    """

    layer: int

    @classmethod
    def parse(cls, text: str) -> HookPoint:
        """Reads ``resid_post.14``; raises FeaturewatchError for anything else."""
        match = _PATTERN.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise FeaturewatchError(
                f"hook point {text!r}",
                "a hook point is written resid_post.<layer> with a layer number from 0",
                "write for example resid_post.14",
            )
        return cls(int(match.group(1)))

    @classmethod
    def from_foreign(cls, name: str) -> HookPoint:
        """Reads TransformerLens' ``blocks.14.hook_resid_post``, Hugging Face's ``model.layers.14`` or our own name."""
        for pattern in (_TRANSFORMER_LENS, _HUGGING_FACE):
            if match := pattern.fullmatch(name):
                return cls(int(match.group(1)))
        return cls.parse(name)

    def require_in(self, num_layers: int, model: str) -> None:
        """Raises FeaturewatchError unless the model has this layer."""
        if self.layer >= num_layers:
            raise FeaturewatchError(
                f"hook point '{self}'",
                f"model {model} has layers 0 to {num_layers - 1}",
                f"choose a hook point from resid_post.0 to resid_post.{num_layers - 1}",
            )

    @property
    def transformer_lens_name(self) -> str:
        return f"blocks.{self.layer}.hook_resid_post"

    @property
    def hugging_face_name(self) -> str:
        return f"model.layers.{self.layer}"

    def __str__(self) -> str:
        return f"resid_post.{self.layer}"
