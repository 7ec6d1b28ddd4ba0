"""The page of an evaluation."""

from __future__ import annotations

from typing import Final

from training.evaluation.page.document import document
from training.evaluation.page.markup import Markup, tag, text
from training.evaluation.page.sections import cards, comparison, table, tiles
from training.evaluation.report import EvalReport, SaeReport

EVAL_HTML: Final = "eval.html"


def page(report: EvalReport) -> str:
    """The whole document. All that comes from files is escaped, and the page may load nothing."""
    return document(f"SAE evaluation of {', '.join(sae.name for sae in report.saes)}", _body(report))


def _body(report: EvalReport) -> list[Markup]:
    rows = report.saes[0].reconstruction.rows
    parts = [
        tag("h1", text("SAE evaluation")),
        tag(
            "p",
            text(f"{report.model} · {_text_of(report)} · {rows:,} rows"),
            class_="soft",
        ),
    ]
    if len(report.saes) > 1:
        parts.append(comparison(report))
    for sae in report.saes:
        parts += _sae(sae)
    if len(report.saes) == 1:
        parts.append(tag("section", tag("h2", text("All figures")), table(report)))
    parts.append(_about(report))
    return parts


def _sae(sae: SaeReport) -> list[Markup]:
    about = f"{sae.hook_point} · {sae.latents:,} latents of width {sae.width:,} · {sae.activation}"
    if sae.model:
        about += f" · trained on {sae.model}"
    notes = [tag("p", text(note), class_="note") for note in sae.notes]
    return [
        tag("section", tag("h2", text(sae.name)), tag("p", text(about), class_="soft"), *notes, tiles(sae), cards(sae))
    ]


def _about(report: EvalReport) -> Markup:
    lines = [
        "Intervals are 95 %, from a bootstrap over whole sequences (figures on rows and losses) or over texts (AUROC); "
        "accuracy has Wilson's.",
        report.outlier_rule,
        "What each figure means is in docs/evaluation.md.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        f"Model SHA-256 {report.model_sha256}",
        *(f"{sae.name}: weights SHA-256 {sae.sha256}" for sae in report.saes if sae.sha256),
        *(f"{name}: {value}" for name, value in report.data.items()),
    ]
    return tag(
        "section",
        tag("h2", text("How it was measured")),
        tag(
            "div",
            *(tag("p", text(line), class_="small soft") for line in lines),
            tag("p", text("Repeat it:"), class_="small soft"),
            tag("pre", text(report.command)),
            class_="card",
        ),
    )


def _text_of(report: EvalReport) -> str:
    return report.data.get("files") or "held-out text of an activation cache"
