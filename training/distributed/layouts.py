"""The two ways in which ranks share a training."""

from __future__ import annotations

from typing import Final

LAYOUTS: Final = ("data", "latents")
"""Other rows of each batch per rank and all latents, or all rows and other latents."""
