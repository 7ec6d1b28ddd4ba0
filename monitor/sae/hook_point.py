"""Names of sites in a decoder layer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from monitor.errors import FeaturewatchError

SITES: Final = ("resid_pre", "attn_z", "attn_out", "mlp_out", "resid_post")
"""In the order in which a token meets them."""
_PATTERN = re.compile(rf"({'|'.join(SITES)})\.(0|[1-9][0-9]{{0,3}})")
_TRANSFORMER_LENS = re.compile(r"blocks\.([0-9]+)\.(?:attn\.)?hook_(resid_pre|resid_post|attn_out|mlp_out|z)")
_HUGGING_FACE = re.compile(
    r"(?:model\.|transformer\.|gpt_neox\.)?(?:language_model\.)?(?:layers|h)\.([0-9]+)"
    r"(\.(?:mlp|self_attn|attn|attention|post_feedforward_layernorm)|(?:\.self_attn\.o_proj)?\.input"
    r"|\.self_attn\.o_proj)?(?:\.output)?"
)
_MODULES: Final = {
    None: "resid_post",
    ".input": "resid_pre",
    ".self_attn.o_proj": "attn_z",
    ".self_attn.o_proj.input": "attn_z",
    ".self_attn": "attn_out",
    ".attn": "attn_out",
    ".attention": "attn_out",
    ".mlp": "mlp_out",
    # What models with a norm behind the MLP add to the residual stream (Gemma 2 and 3).
    ".post_feedforward_layernorm": "mlp_out",
}


@dataclass(frozen=True, order=True)
class HookPoint:
    """A site of a decoder layer, written ``<site>.<layer>``.

    ``resid_post.<layer>`` is the output of decoder layer `layer`, before the next norm. It equals ``hidden_states[layer
    + 1]`` of Hugging Face's ``output_hidden_states`` for every layer but the last (there Hugging Face has already
    applied the final norm). ``resid_pre.<layer>`` is the layer's input. ``attn_out`` and ``mlp_out`` are what the two
    halves of the layer add to the residual stream (behind the norm that some models put there). ``attn_z`` is the input
    of the attention's output projection, all heads side by side.

    The tap watches ``resid_post``; the other sites are for training and evaluation.
    """

    layer: int
    site: str = "resid_post"

    @classmethod
    def parse(cls, text: str) -> HookPoint:
        """Reads ``resid_post.14``; raises FeaturewatchError for anything else."""
        match = _PATTERN.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise FeaturewatchError(
                f"hook point {text!r}",
                f"a hook point is written <site>.<layer> with a site of {', '.join(SITES)} and a layer number from 0",
                "write for example resid_post.14",
            )
        return cls(int(match.group(2)), match.group(1))

    @classmethod
    def from_foreign(cls, name: str) -> HookPoint:
        """Reads TransformerLens' ``blocks.14.hook_resid_post``, a Hugging Face module, or our own name.

        A module such as ``model.layers.14.mlp`` stands for its output, or its input where the name ends so.
        """
        if match := _TRANSFORMER_LENS.fullmatch(name):
            return cls(int(match.group(1)), "attn_z" if match.group(2) == "z" else match.group(2))
        if match := _HUGGING_FACE.fullmatch(name):
            return cls(int(match.group(1)), _MODULES[match.group(2)])
        return cls.parse(name)

    def require_in(self, num_layers: int, model: str) -> None:
        """Raises FeaturewatchError unless the model has this layer."""
        if self.layer >= num_layers:
            raise FeaturewatchError(
                f"hook point '{self}'",
                f"model {model} has layers 0 to {num_layers - 1}",
                f"choose a hook point from {self.site}.0 to {self.site}.{num_layers - 1}",
            )

    @property
    def transformer_lens_name(self) -> str:
        return f"blocks.{self.layer}." + ("attn.hook_z" if self.site == "attn_z" else f"hook_{self.site}")

    @property
    def hugging_face_name(self) -> str:
        """The module whose output it is; for `resid_pre` and `attn_z`, whose input."""
        part = {"attn_z": ".self_attn.o_proj", "attn_out": ".self_attn", "mlp_out": ".mlp"}.get(self.site, "")
        return f"model.layers.{self.layer}{part}"

    def __str__(self) -> str:
        return f"{self.site}.{self.layer}"
