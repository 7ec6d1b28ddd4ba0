"""Dictionaries (sparse autoencoders), probes and the hook points they belong to. No torch."""

from monitor.sae.activation import Activation, GroupMax, JumpRelu, Relu, TopK
from monitor.sae.catalog import Catalog
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.registry import load_dictionary
from monitor.sae.formats.saelens import load_saelens
from monitor.sae.formats.saelens_save import save_saelens
from monitor.sae.formats.stored import Hints
from monitor.sae.full_encode import TopLatents, top_latents
from monitor.sae.hook_point import HookPoint
from monitor.sae.input_norm import InputNorm
from monitor.sae.probe import DenseProbe, SaeProbe, load_dense_probe, load_sae_probe, save_dense_probe, save_sae_probe
from monitor.sae.watchable import require_watchable

__all__ = [
    "Activation",
    "Catalog",
    "DenseProbe",
    "Dictionary",
    "GroupMax",
    "Hints",
    "HookPoint",
    "InputNorm",
    "JumpRelu",
    "Relu",
    "SaeProbe",
    "TopK",
    "TopLatents",
    "load_dense_probe",
    "load_dictionary",
    "load_sae_probe",
    "load_saelens",
    "require_watchable",
    "save_dense_probe",
    "save_sae_probe",
    "save_saelens",
    "top_latents",
]
