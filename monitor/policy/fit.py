"""Whether a policy applies to a model, and whether its thresholds do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from monitor.policy.policy import Policy


def matches_model(policy: Policy, model: str) -> bool:
    """True if one of ``match.models`` fits the model's name or its last part; case is ignored."""
    return fits_model(policy.document.spec.match.models, model)


def fits_model(patterns: Collection[str], model: str) -> bool:
    """True if one of the shell patterns fits a model's name or its last part; case is ignored."""
    names = {model.casefold(), last_part(model)}
    return any(fnmatchcase(name, pattern.casefold()) for pattern in patterns for name in names)


def fit_mismatch(policy: Policy, serving: Mapping[str, str]) -> list[str]:
    """How the serving configuration differs from the one the thresholds were fitted on.

    Args:
        policy: only the keys that its ``fittedOn`` states are compared.
        serving: values by key: model, revision, dtype, quantization, kvCacheDtype, vllm, sae, hook. A missing key
            counts as different, but for sae and hook, which `check_policy` compares with what the detectors use.

    Returns:
        One readable line per difference, e.g. ``dtype: fitted on float32, serving bfloat16``.
    """
    stated = policy.document.spec.fitted_on.model_dump(by_alias=True, exclude_none=True)
    lines = []
    for key, fitted in stated.items():
        if key in ("sae", "hook") and key not in serving:
            continue
        actual = serving.get(key, "")
        if not _same(key, fitted, actual):
            lines.append(f"{key}: fitted on {fitted}, serving {actual or 'unknown'}")
    return lines


def _same(key: str, fitted: str, actual: str) -> bool:
    if key == "model":
        return last_part(fitted) == last_part(actual)
    if key == "vllm":
        return actual == fitted or actual.startswith(f"{fitted}.") or actual.startswith(f"{fitted}+")
    return fitted.casefold() == actual.casefold()


def last_part(model: str) -> str:
    """Of a model's folder or Hub id, by which models are compared; case folded."""
    return short_name(model).casefold()


def short_name(model: str) -> str:
    """Of a model's folder or Hub id the last part, as ``fittedOn`` states it."""
    return model.rstrip("/").rpartition("/")[2]
