"""The parts of the page about one SAE, and the one that compares them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from training.evaluation.figure import Figure
from training.evaluation.page.charts import Series, bars, histogram, lines, scatter
from training.evaluation.page.markup import Markup, join, tag, text
from training.evaluation.probing import Probe
from training.evaluation.report import EvalReport, Probing, SaeReport
from training.evaluation.score import Separation
from training.evaluation.summary import number, plain, summary_rows


def table(report: EvalReport) -> Markup:
    """The figures of all SAEs side by side."""
    names = [
        text(sae.name) if len(report.saes) == 1 else text(f"{i} · {sae.name}") for i, sae in enumerate(report.saes, 1)
    ]
    head = tag("thead", tag("tr", tag("th", text("figure")), *(tag("th", name, scope="col") for name in names)))
    rows = [
        tag(
            "tr",
            tag("th", text(name.strip()), scope="row", class_="sub" if name.startswith(" ") else "top"),
            *(tag("td", text(value)) for value in values),
        )
        for name, values in summary_rows(report)
    ]
    return tag("div", tag("table", head, tag("tbody", *rows)), class_="card scroll")


def comparison(report: EvalReport) -> Markup:
    """All SAEs: a chart of what sparsity buys, and the table."""
    points = [
        (sae.reconstruction.l0.value, sae.reconstruction.explained_variance.value, str(index))
        for index, sae in enumerate(report.saes, 1)
    ]
    told = "; ".join(f"{i}: L0 {l0:.1f}, explained variance {plain(ev)}" for l0, ev, i in points)
    chart = scatter("Explained variance over L0", told, [p for p in points if math.isfinite(p[1])], "L0")
    return tag(
        "section",
        tag("h2", text("Side by side")),
        tag("div", _card("Explained variance over L0", chart), class_="grid-2"),
        tag("div", table(report), class_="grid-2"),
    )


def tiles(sae: SaeReport) -> Markup:
    """The few figures to look at first."""
    shown = [
        ("explained variance", sae.reconstruction.explained_variance, 3),
        ("active latents per row (L0)", sae.reconstruction.l0, 1),
    ]
    if sae.splice is not None:
        shown += [("cross-entropy recovered", sae.splice.recovered, 3), ("KL recovered", sae.splice.kl_recovered, 3)]
    firing = sae.firing
    return tag(
        "div",
        *(_tile(name, f"{figure.value:.{digits}f}", _interval(figure, digits)) for name, figure, digits in shown),
        _tile("silent latents", f"{firing.silent_share:.1%}", f"of {firing.latents:,}, on {firing.rows:,} rows"),
        class_="tiles",
    )


def cards(sae: SaeReport) -> Markup:
    """The charts."""
    found = [_bands(sae)]
    if sae.splice is not None:
        found.append(_losses(sae))
    found += [_density(sae), _nearest(sae), _encoder(sae), _magnitudes(sae)]
    found += [_probing(probing) for probing in sae.probings]
    return tag("div", *found, class_="grid-2")


def _bands(sae: SaeReport) -> Markup:
    bands = [band for band in sae.norm_bands if band.rows]
    values = [band.fvu for band in bands]
    names = [f"{band.name} · {band.rows:,} row{'' if band.rows == 1 else 's'}" for band in bands]
    shown = [plain(value) for value in values]
    told = "; ".join(f"{name}: {value}" for name, value in zip(names, shown, strict=True))
    return _card(
        "Unexplained variance by norm of the row",
        bars("Unexplained variance by norm", told, names, values, shown),
        f"With outliers the explained variance is {number(sae.reconstruction_with_outliers.explained_variance)}, at "
        f"every position (BOS and template too) {number(sae.reconstruction_everywhere.explained_variance)}.",
    )


def _losses(sae: SaeReport) -> Markup:
    splice = sae.splice
    if splice is None:
        return join()
    names = ["clean model", "SAE spliced in", "rows replaced by their mean", "rows replaced by 0"]
    figures = [splice.clean, splice.spliced, splice.averaged, splice.zeroed]
    values = [figure.value for figure in figures]
    shown = [plain(value) for value in values]
    told = "; ".join(f"{name}: {value}" for name, value in zip(names, shown, strict=True))
    return _card(
        "Cross-entropy in nats per token",
        bars("Cross-entropy", told, names, values, shown),
        f"Recovered {number(splice.recovered)} against 0, {number(splice.recovered_from_mean)} against the mean. KL "
        f"from the clean prediction {number(splice.kl_spliced)}; the same first choice for "
        f"{splice.same_top.value:.1%} of {splice.tokens:,} tokens.",
    )


def _density(sae: SaeReport) -> Markup:
    firing = sae.firing
    edges, counts = firing.density_histogram["log10_edges"], firing.density_histogram["latents"]
    ticks = [(float(power), f"{100.0 * 10.0**power:g} %") for power in range(-8, 1)]
    told = f"{firing.silent_share:.1%} silent, {firing.dense_share:.1%} fire on more than 10 % of the rows, median " + (
        f"{firing.density_quantiles['0.5']:.2%}"
    )
    return _card(
        "How often latents fire",
        histogram(
            "Firing density",
            told,
            edges,
            counts,
            ticks=ticks,
            axis="share of rows (log scale)",
            marks=[(-1.0, "dense")],
        ),
        f"{told}. A latent rarer than {firing.resolution:.2%} may well be silent by chance on {firing.rows:,} rows.",
        head=[("latent", "fires on")],
        rows=[(str(latent), f"{density:.1%}") for latent, density in firing.densest],
        summary="Densest latents",
    )


def _nearest(sae: SaeReport) -> Markup:
    decoder = sae.decoder
    told = (
        f"median {plain(decoder.nearest_quantiles['0.5'])}, {decoder.duplicate_share:.1%} above 0.9, "
        f"{decoder.queries:,} latents looked up"
    )
    return _card(
        "Cosine with the nearest other decoder row",
        _cosines("Nearest decoder row", told, decoder.nearest_histogram),
        told[0].upper() + told[1:] + ".",
        head=[("pair", "cosine")],
        rows=[(f"{first}, {second}", f"{cosine:.3f}") for first, second, cosine in decoder.closest],
        summary="Closest pairs",
    )


def _encoder(sae: SaeReport) -> Markup:
    quantiles = sae.decoder.encoder_quantiles
    told = (
        f"median {plain(quantiles['0.5'])}, from {plain(quantiles['0.01'])} to {plain(quantiles['0.99'])} (1 % to 99 %)"
    )
    return _card(
        "Cosine of encoder and decoder row",
        _cosines("Encoder and decoder row", told, sae.decoder.encoder_histogram),
        told[0].upper() + told[1:] + ".",
    )


def _cosines(title: str, told: str, found: dict[str, list[float]]) -> Markup:
    ticks = [(step / 4, f"{step / 4:g}") for step in range(-4, 5)]
    return histogram(title, told, found["edges"], found["latents"], ticks=ticks, axis="cosine")


def _magnitudes(sae: SaeReport) -> Markup:
    quantiles = {f"{float(share):.0%} quantile": value for share, value in sae.firing.magnitudes.items()}
    quantiles["largest"] = sae.firing.largest
    names, values = list(quantiles), list(quantiles.values())
    shown = [f"{value:.3g}" if math.isfinite(value) else "none" for value in values]
    told = "; ".join(f"{name}: {value}" for name, value in zip(names, shown, strict=True))
    figures = sae.reconstruction
    return _card(
        "Magnitude of active latents",
        bars("Magnitude of active latents", told, names, values, shown),
        f"Norm of the reconstruction over that of the row {number(figures.norm_ratio)}, reconstruction bias "
        f"{number(figures.bias)}, cosine {number(figures.cosine)}.",
    )


def _probing(probing: Probing) -> Markup:
    sparse = [probe for probe in probing.probes if probe.name == "latents"]
    others = {probe.name: probe for probe in probing.probes if probe.name != "latents"}
    unseen = all(probe.unseen_sources is not None for probe in probing.probes)
    series = [_series("held-out texts", [probe.heldout for probe in sparse])]
    if unseen:
        series.append(_series("sources left out", [probe.unseen_sources for probe in sparse]))
    levels = [(name, _level(others.get(name), unseen)) for name in ("residual", "words")]
    told = "; ".join(f"{_name(probe)}: {_pair(probe)}" for probe in probing.probes)
    key = [
        tag("li", text("latents, held-out texts"), class_="k1"),
        *([tag("li", text("latents, sources left out"), class_="k2")] if unseen else []),
        tag("li", text("whole residual" + (", sources left out" if unseen else "")), class_="k3"),
        tag("li", text("words" + (", sources left out" if unseen else "")), class_="k4"),
    ]
    chart = lines(
        "AUROC of sparse probes",
        told,
        [str(probe.k) for probe in sparse],
        series,
        levels=levels,
        axis="latents in the probe",
    )
    return _card(
        f"Probes: {probing.file}",
        join(chart, tag("ul", *key, class_="key")),
        f"{sum(probing.train):,} texts to fit on, {sum(probing.val):,} held out, {probing.sources:,} sources. AUROC.",
        head=[("probe", "held out", "sources left out", "accuracy, held out")],
        rows=[
            (
                _name(probe),
                number(probe.heldout.auroc),
                "" if probe.unseen_sources is None else number(probe.unseen_sources.auroc),
                f"{probe.heldout.accuracy.value:.1%}",
            )
            for probe in probing.probes
        ],
        summary="All probes",
    )


def _series(name: str, found: Sequence[Separation | None]) -> Series:
    figures = [None if part is None else part.auroc for part in found]
    return Series(
        name,
        [None if figure is None or not math.isfinite(figure.value) else figure.value for figure in figures],
        [None if figure is None else figure.low for figure in figures],
        [None if figure is None else figure.high for figure in figures],
    )


def _level(probe: Probe | None, unseen: bool) -> float | None:
    if probe is None:
        return None
    found = probe.unseen_sources if unseen else probe.heldout
    return found.auroc.value if found is not None and math.isfinite(found.auroc.value) else None


def _name(probe: Probe) -> str:
    return f"{probe.k} latent{'s' if probe.k > 1 else ''}" if probe.k else probe.name


def _pair(probe: Probe) -> str:
    unseen = "" if probe.unseen_sources is None else f", {plain(probe.unseen_sources.auroc.value)} on unseen sources"
    return f"{plain(probe.heldout.auroc.value)} held out{unseen}"


def _tile(name: str, value: str, below: str) -> Markup:
    return tag("div", tag("span", text(name)), tag("b", text(value)), tag("span", text(below)), class_="card tile")


def _interval(figure: Figure, digits: int) -> str:
    if figure.low is None or figure.high is None:
        return f"n = {figure.n:,}"
    return f"{figure.low:.{digits}f} to {figure.high:.{digits}f}"


def _card(
    title: str,
    chart: Markup,
    below: str = "",
    *,
    head: Sequence[Sequence[str]] = (),
    rows: Sequence[Sequence[str]] = (),
    summary: str = "",
) -> Markup:
    parts = [tag("h3", text(title)), chart]
    if below:
        parts.append(tag("p", text(below), class_="small soft"))
    if rows:
        columns = [tag("tr", *(tag("th", text(cell), scope="col") for cell in row)) for row in head]
        body = [tag("tr", *(tag("td", text(cell)) for cell in row)) for row in rows]
        parts.append(
            tag(
                "details",
                tag("summary", text(summary)),
                tag("div", tag("table", tag("thead", *columns), tag("tbody", *body)), class_="scroll"),
            )
        )
    return tag("div", *parts, class_="card")
