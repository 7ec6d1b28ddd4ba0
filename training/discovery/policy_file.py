"""Writes the fitted detectors as a policy file with its probe files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from monitor.policy import Policy, parse_policy
from monitor.sae import DenseProbe, SaeProbe, save_dense_probe, save_sae_probe
from training.discovery.config import DiscoverConfig
from training.discovery.fit import Detectors
from training.discovery.rules import Choice

_SKIP = ["bos", "special", "template", "system"]


class _PlainDumper(yaml.SafeDumper):
    """Writes every value out: policies use no anchors and aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def weight_files(config: DiscoverConfig) -> dict[str, str]:
    """Probe files by detector id, relative to the policy file."""
    name = config.policy_out.stem
    return {"dense": f"weights/{name}.dense.safetensors", "sae_probe": f"weights/{name}.sae.safetensors"}


def report_file(config: DiscoverConfig) -> str:
    """The figures as JSON, relative to the policy file."""
    return f"weights/{config.policy_out.stem}.report.json"


def save_probes(detectors: Detectors, config: DiscoverConfig, folder: Path) -> None:
    """Writes both probe files below `folder`."""
    files = weight_files(config)
    dense, probe = detectors.dense, detectors.sae_probe
    save_dense_probe(DenseProbe(detectors.hook_point, dense.weight_k, dense.bias), folder / files["dense"])
    save_sae_probe(
        SaeProbe(detectors.sae, detectors.probe_latents, probe.weight_k, probe.bias), folder / files["sae_probe"]
    )


def policy_text(
    detectors: Detectors,
    choice: Choice,
    config: DiscoverConfig,
    *,
    revision: int = 1,
    description: str = "being measured",
    calibration: dict[str, dict[str, Any]] | None = None,
) -> str:
    """The policy as YAML.

    Args:
        detectors: directions.
        choice: rule and thresholds.
        config: of the discovery.
        revision: of the policy.
        description: what it looks for and what it misses.
        calibration: per detector id, once the engine has counted.
    """
    files, model = weight_files(config), Path(config.model).name.lower()
    aggregate = {
        "kind": "rolling_mean",
        "window": config.window,
        "then": "max",
        "minTokens": config.min_tokens,
        "skip": list(_SKIP),
    }
    sources: dict[str, dict[str, Any]] = {
        "dense": {"denseProbe": {"file": files["dense"]}},
        "sae_probe": {"saeProbe": {"file": files["sae_probe"]}},
        "latents": {"saeLatents": _latents(detectors, config)},
    }
    entries = []
    for name, source in sources.items():
        limits = choice.thresholds[name]
        entry: dict[str, Any] = {
            "id": name,
            "source": source,
            "aggregate": dict(aggregate),
            "threshold": {"warn": limits.warn, "fire": limits.fire, "clear": limits.warn},
        }
        if calibration:
            entry["calibration"] = calibration[name]
        entries.append(entry)
    document = {
        "apiVersion": "monitor/v1",
        "kind": "Policy",
        "metadata": {
            "name": config.policy_out.stem,
            "revision": revision,
            **({"owner": config.owner} if config.owner else {}),
            "status": "experimental",
            "description": description,
        },
        "spec": {
            # A new policy shows itself in shadow before it pages anybody.
            "mode": "shadow",
            "match": {"models": [f"*{model}*"], "phases": ["prompt"]},
            "fittedOn": {
                "model": model,
                "dtype": "float32",
                "sae": f"sha256:{detectors.dictionary.sha256}",
                "hook": str(detectors.hook_point),
            },
            "detectors": entries,
            "rules": [
                {
                    "id": _rule_id(config.policy_out.stem),
                    "when": choice.when,
                    "for": "1 token",
                    "severity": "high",
                    "actions": ["alert", "capture"],
                }
            ],
            "record": {"content": "full"},
        },
    }
    return str(yaml.dump(document, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=110))


def parsed(text: str, config: DiscoverConfig) -> Policy:
    """The policy that the text stands for; raises PolicyError."""
    return parse_policy(text, config.policy_out.name)


def _rule_id(name: str) -> str:
    """From the first word of the policy's name; ids begin with a letter and are shorter than names may be."""
    word = name.split("-", maxsplit=1)[0].upper()
    return (word if word[0].isalpha() else f"R{word}")[:32] + "-001"


def _latents(detectors: Detectors, config: DiscoverConfig) -> dict[str, Any]:
    ranking = detectors.ranking
    return {
        "sae": detectors.sae,
        "latents": [
            {
                "index": int(index),
                "weight": round(float(weight), 5),
                "label": f"separates {config.subject}s, train AUROC {ranking.auroc_m[index]:.3f}",
            }
            for index, weight in zip(detectors.set_latents, detectors.set_weights, strict=True)
        ],
        "combine": "weighted_sum",
    }
