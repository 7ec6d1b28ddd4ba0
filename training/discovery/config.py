"""Settings of a discovery."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monitor.errors import FeaturewatchError
from training.options import Rule, option, require_all


@dataclass(frozen=True)
class DiscoverConfig:
    """Which prompts to tell apart, and how the policy that does it should look."""

    model: str = option("", "Hugging Face folder or id of the model.")
    saes: tuple[str, ...] = option((), "SAE id below the zoo, e.g. smollm2-135m-instruct/resid_post.14; repeatable.")
    data: tuple[Path, ...] = option((), "Labelled prompts: jsonl(.gz) rows with text, label, split, source, category.")
    positive: Path | None = option(None, "Instead of --data: text file, one prompt per line, to be found.")  # noqa: RUF009
    negative: Path | None = option(None, "Instead of --data: text file, one prompt per line, to be passed.")  # noqa: RUF009
    subject: str = option("positive prompt", "What label 1 means, in a few words for labels and description.")
    keep: tuple[str, ...] = option((), "source=category: of this source take this category only; repeatable.")
    cap: tuple[str, ...] = option((), "source=number: at most so many prompts of this source per split; repeatable.")
    hard: tuple[str, ...] = option((), "Source of negatives that look like positives, reported apart; repeatable.")
    policy_out: Path = option(Path("policies/policy.yaml"), "Policy file to write; probes go to weights/ beside it.")  # noqa: RUF009
    owner: str = option("", "Who answers for the policy; left out, the policy names nobody.")
    force: bool = option(False, "Replace a policy file that is there, and its probes.")
    cache: Path | None = option(None, "Folder that keeps the captured residuals for the next run.")  # noqa: RUF009
    window: int = option(16, "Tokens of the rolling mean over which a score must hold.")
    min_tokens: int = option(4, "Judged tokens before a detector may leave clear.")
    target_fpr: float = option(
        0.01, "Share of benign prompts that the whole policy may flag, as val's negatives show with --confidence."
    )
    warn_fpr: float = option(0.05, "Share of val negatives at which a detector warns.")
    confidence: float = option(0.95, "Confidence of the bounds on false-alarm rates.")
    probe_latents: int = option(64, "Latents of the SAE probe.")
    single_latents: int = option(8, "Latents of the latent set.")
    batch_tokens: int = option(4096, "Tokens per forward pass, padding included.")
    context: int = option(1024, "Longer prompts are cut to so many tokens.")
    seed: int = option(0, "Seed of the samples taken.")

    def __post_init__(self) -> None:
        rules: list[Rule] = [
            (bool(self.saes), "SAEs", "at least one is needed", "add --sae smollm2-135m-instruct/resid_post.14"),
            (
                (bool(self.data), self.positive is not None, self.negative is not None)
                in {(True, False, False), (False, True, True)},
                f"prompts from {self._given() or 'nothing'}",
                "they come from --data or from --positive and --negative",
                "give --data alone, or both of the others and no --data",
            ),
            (self.window >= 1, f"window {self.window}", "it is a number of tokens", "give for example 16"),
            (self.min_tokens >= 1, f"min-tokens {self.min_tokens}", "it is a number of tokens", "give for example 4"),
            (0 < self.confidence < 1, f"confidence {self.confidence}", "it is a share", "give for example 0.95"),
            (self.probe_latents >= 1, f"probe-latents {self.probe_latents}", "it is at least 1", "give for example 64"),
            (
                self.single_latents >= 1,
                f"single-latents {self.single_latents}",
                "it is at least 1",
                "give for example 8",
            ),
            (self.seed >= 0, f"seed {self.seed}", "it must not be negative", "give for example 0"),
            (
                0 < self.target_fpr <= self.warn_fpr < 1,
                f"target-fpr {self.target_fpr} and warn-fpr {self.warn_fpr}",
                "they are shares, and a warning comes no later than a firing",
                "give for example 0.01 and 0.05",
            ),
        ]
        require_all(rules)

    def _given(self) -> str:
        files = {"--data": self.data, "--positive": self.positive, "--negative": self.negative}
        return ", ".join(flag for flag, value in files.items() if value)

    def require_fits(self, sae: str, latents: int) -> None:
        """Raises FeaturewatchError when the SAE has fewer latents than a detector is to use."""
        for name, count in (("probe-latents", self.probe_latents), ("single-latents", self.single_latents)):
            if count > latents:
                raise FeaturewatchError(
                    f"{name} {count}", f"SAE {sae} has {latents} latents", f"give at most {latents}"
                )
