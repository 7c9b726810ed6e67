"""The page of the spiral: ten figures, what to see in each, the number beside it and its target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion_jax.files import write_atomic
from diffusion_jax.report.drawings import Draw, animation, drawing, drawing_png
from diffusion_jax.report.figures import Chart, Series, chart_png, line_chart
from diffusion_jax.report.page import Block, Columns, Figure, Mark, Page, Section, Table, Tile, write_page
from experiments.spiral import figures
from experiments.spiral.measures import ARCS, NULL, TABLE, one_hot
from experiments.spiral.targets import checks

COLOURS = ("s1", "s2", "s3", "s4")


@dataclass(frozen=True)
class Folder:
    """Where the PNG of each figure goes; `draw` and `chart` give the figure of the page."""

    path: Path

    def draw(self, name: str, draw: Draw, width: int, height: int, alt: str, caption: str, title: str = "") -> Figure:
        """A drawing of `width` by `height` points."""
        write_atomic(self.path / f"{name}.png", drawing_png(draw, width=width, height=height))
        return drawing(draw, width=width, height=height, alt=alt, caption=caption, title=title)

    def charts(self, name: str, charts: Sequence[tuple[str, Chart, str]]) -> Columns:
        """Charts (title, chart, caption) side by side."""
        write_atomic(self.path / f"{name}.png", chart_png([(title, chart) for title, chart, _ in charts]))
        return Columns(
            tuple(
                line_chart(chart, title=title, caption=caption, alt=f"{title}: {chart.y_label} against {chart.x_label}")
                for title, chart, caption in charts
            )
        )


def write(report: Path, schedule: Any, found: dict[str, Any], shown: dict[str, Any]) -> Path:
    """The page and its pictures in the folder `report`."""
    folder = Folder(report)
    sections = (
        Section("From data to noise", _forward(folder, found, shown)),
        Section("Why the total noise", _targets(folder, found)),
        Section("The field, and where it turns", _field(folder, schedule, found, shown)),
        Section("Noise while sampling", _sampling(folder, found, shown)),
        Section("One family of marginals", _marginals(folder, found)),
        Section("Classes and guidance", _guidance(folder, schedule, found, shown)),
        Section("Saying where not to go", _negative(folder, found, shown)),
        Section("Every solver, at equal evaluations", _solvers(folder, found)),
        Section("From noise to data", _flow(folder, shown)),
        Section("How likely are the data?", _likelihood(folder, found, shown)),
        Section("Targets", (_targets_table(found),)),
    )
    made = checks(found)
    page = Page(
        title="Diffusion on a spiral",
        lead=(
            "A hundred points in the plane, small enough that the perfect network is known in closed form. Every figure "
            "has a number beside it: what a trained network does, and what a perfect one would."
        ),
        tiles=_tiles(found, sum(c.met for c in made), len(made)),
        sections=sections,
        foot=f"Written by experiments/spiral in {found['seconds']:.0f} s, seed {found['seed']}."
        + (" A quick run: its networks are hardly trained." if found["quick"] else ""),
    )
    return write_page(report / "index.html", page)


def _tiles(found: dict[str, Any], met: int, count: int) -> tuple[Tile, ...]:
    losses, rows = found["eps_loss"], {row["scale"]: row for row in found["guidance"]["features"]}
    ddim = [found["table"][name]["N = 64, sigma max 10"]["DDIM"]["distance"] for name in ("features", "exact")]
    return (
        Tile("Targets met", f"{met} of {count}", "the last section has them all", met == count),
        Tile("Loss above the Bayes floor", f"{100 * (losses['features'] / losses['floor'] - 1):.1f}%", "at most 5%"),
        Tile("Mean distance, DDIM", f"{ddim[0]:.3f}", f"{ddim[1]:.3f} with the exact denoiser"),
        Tile("Right class at guidance 3", f"{rows[3.0]['accuracy']:.1%}", f"{rows[1.0]['accuracy']:.1%} unguided"),
    )


def _targets_table(found: dict[str, Any]) -> Table:
    rows = tuple((c.what, c.value, Mark(c.target, c.met)) for c in checks(found))
    return Table(("What", "Measured", "Target"), rows)


def _forward(folder: Folder, found: dict[str, Any], shown: dict[str, Any]) -> tuple[Block, ...]:
    ts, paths, at = shown["walks"]
    levels = [
        (f"t = {ts[i]:.2f}, σ = {row['sigma']:.2f}", paths[i]) for i, row in zip(at, found["forward"], strict=True)
    ]
    draw = figures.forward(levels, ts, paths, shown["points"])
    table = Table(
        ("Time", "σ", "Spread measured", "sqrt(Var + σ²)"),
        tuple(
            (f"{r['t']:.2f}", f"{r['sigma']:.3f}", f"{r['std']:.3f}", f"{r['closed_form']:.3f}")
            for r in found["forward"]
        ),
        numeric=frozenset({0, 1, 2, 3}),
        caption="Standard deviation a coordinate of 2000 walks.",
    )
    figure = folder.draw(
        "1_forward", draw, 960, 212, "The spiral blurred step by step, three random walks drawn through it",
        "Each point walks at random; three walks are drawn up to the time of the panel. The cloud forgets the spiral from the "
        "finest detail to the coarsest. The last panels are zoomed out.",
    )  # fmt: skip
    return figure, table


def _targets(folder: Folder, found: dict[str, Any]) -> tuple[Block, ...]:
    data, charts = found["targets"], []
    for title, key, caption in (
        ("What is noise in the target", "target", "Variance that x_t cannot tell, over the variance that it can."),
        (
            "What is noise in the gradient",
            "gradient",
            "The same of one example's gradient, through the trained network.",
        ),
    ):
        lines = tuple(
            Series(name, data["t"], values, colour, marks=True)
            for colour, (name, values) in zip(COLOURS, data[key].items(), strict=True)
        )
        charts.append((title, Chart(lines, "t", "noise / signal", log_y=True), caption))
    last, total = (np.array(data["gradient"][name]) for name in ("last step", "total noise"))
    lead = (
        "A network could be asked for the noise of the last step alone, the step back. Most of what it would be shown is then "
        f"noise that nothing predicts: over the times below its gradient has {np.min(last / total):.0f} to "
        f"{np.max(last / total):,.0f} times the noise, for the same signal, that the total noise has. x0 and v are the total "
        "noise in other units: the same knowledge, weighed otherwise over t."
    )
    return lead, folder.charts("2_targets", charts)


def _field(folder: Folder, schedule: Any, found: dict[str, Any], shown: dict[str, Any]) -> tuple[Block, ...]:
    sigmas, places = (2.0, 1.0, 0.5, 0.3, 0.15, 0.08), figures.lattice()
    columns = [(f"σ = {s:g}", max(1.3, 1.6 * s)) for s in sigmas]
    rows = []
    for name in ("exact", "trained"):
        arrows = []
        for s, (_, limit) in zip(sigmas, columns, strict=True):
            x, t = jnp.asarray(places * limit), schedule.t_from_logsnr(jnp.float32(-2 * np.log(s)))
            arrows.append(np.asarray(shown["fields"][name](x, t).x0 - x))
        rows.append((name, arrows))
    figure = folder.draw(
        "3_field", figures.fields(columns, rows, places, shown["points"]), 960, 350,
        "Arrows from each place to where the clean point is expected, at six noise levels, exact above trained",
        "The arrows point from x to x0_hat. At large σ all point at the mean of the data; below about σ = .5 they turn to the "
        "nearest arm. Lengths are drawn by their square root, and each panel's longest arrow has the same length.",
    )  # fmt: skip
    shares, rests = found["transition"], found["attractors"]
    x = np.log10(shares["curve_sigmas"])
    chart = Chart(
        (Series("exact", x, shares["exact_curve"]), Series("trained", x, shares["trained_curve"], "s2", dashed=True)),
        "log10 σ", "share of x0's variance that x_t tells", percent=True, y_limits=(0, 1),
    )  # fmt: skip
    table = Table(
        ("σ", *(f"{s:g}" for s in shares["sigmas"])),
        tuple((name, *(f"{v:.3f}" for v in shares[name])) for name in ("exact", "trained")),
        numeric=frozenset(range(1, 5)),
        caption=f"1 − E|x0_hat − x0|² / Var x0. One half is passed at σ = {shares['exact_half']:.3f} by the exact field, "
        f"{shares['trained_half']:.3f} by the trained one.",
    )
    attractors = Table(
        ("σ", *(f"{s:g}" for s in rests["sigmas"])),
        tuple((name, *(str(v) for v in rests[name])) for name in ("exact", "trained")),
        numeric=frozenset(range(1, 6)),
        caption="How many points x → x0_hat(x, σ) comes to rest at: one above σ = .12, near the mean; then more and more "
        "of the data. A perfect network knows the training set by heart. The trained one comes to rest sooner: along the curve "
        "the map hardly moves, so that a small error is enough to hold it.",
    )
    curve = folder.charts(
        "3_transition", [("The turn", chart, "0: the field points at the mean. 100%: it knows the point.")]
    )
    return figure, curve, table, attractors


def _sampling(folder: Folder, found: dict[str, Any], shown: dict[str, Any]) -> tuple[Block, ...]:
    samples = shown["table"]["features"]
    draw = figures.clouds([[(f"{way}", x) for way, x in row.items()] for row in samples.values()], shown["points"])
    figure = folder.draw(
        "4_sampling", draw, 960, 520, "Samples of DDPM, of DDPM without its noise, of DDIM, and of DDIM in few steps",
        "The trained network; above from σ = 10 in 64 steps, below from σ = 1 in 256. DDPM without its noise falls short, "
        "towards the mean. DDIM needs no noise: it takes smaller steps, along the probability-flow ODE.",
    )  # fmt: skip
    rows: list[tuple[str | Mark, ...]] = []
    for name, (_, _, wanted) in TABLE.items():
        for way, published in wanted.items():
            cells = [found["table"][who][name][way] for who in ("exact", "features", "plain")]
            met = abs(cells[0]["distance"] - published) <= 0.02
            rows.append((
                f"{way}, {name}", Mark(f"{published:.3f}", met), *(f"{c['distance']:.3f}" for c in cells),
                *(f"{100 * c['covered']:.0f}" for c in cells[:2]), f"{cells[1]['off_curve']:.3f}",
            ))  # fmt: skip
        cell = found["table"]["features"][name]["DDIM, a tenth of the steps"]
        rows.append((
            f"DDIM, a tenth of the steps, {name}", "", "", f"{cell['distance']:.3f}", "", "",
            f"{100 * cell['covered']:.0f}", f"{cell['off_curve']:.3f}",
        ))  # fmt: skip
    table = Table(
        ("Sampler", "Target", "Exact", "Trained", "Plain MLP", "Reached, exact", "Reached, trained", "Off the curve"),
        tuple(rows),
        numeric=frozenset(range(1, 8)),
        caption="Mean distance of 2000 samples to the data's mean (the data's own is .5945); how many of the 100 points have a "
        "sample within .05; mean distance of the trained network's samples to the curve.",
    )
    return figure, table


def _marginals(folder: Folder, found: dict[str, Any]) -> tuple[Block, ...]:
    names, charts, tables = ("SDE", "ODE", "half the drift"), [], []
    for who, rows in found["marginals"].items():
        ts = [row["t"] for row in rows]
        lines = [
            Series(name, ts, [max(row[name]["distance"], 1e-4) for row in rows], colour, marks=True)
            for name, colour in zip(names, COLOURS, strict=False)
        ]
        title = "Exact denoiser" if who == "exact" else "Trained network"
        charts.append(
            (title, Chart(tuple(lines), "t", "energy distance to the noised data", log_y=True), "Lower is nearer.")
        )
        tables.append(
            Table(
                (title, *(f"σ = {row['sigma']:.2f}" for row in rows)),
                tuple((name, *(f"{row[name]['p_value']:.3f}" for row in rows)) for name in (*names, "SDE against ODE")),
                numeric=frozenset(range(1, len(rows) + 1)),
                caption="p-values of the energy test of 1000 samples against 1000 noised data, 499 relabellings.",
            )
        )
    lead = (
        "At every time the samples of the SDE, which is shaken all the way, and those of the ODE, which is not, are "
        "distributed as the data noised to that time. The test can fail: an SDE with half its drift is found out at every time."
    )
    return lead, folder.charts("5_marginals", charts), *tables


def _guidance(folder: Folder, schedule: Any, found: dict[str, Any], shown: dict[str, Any]) -> tuple[Block, ...]:
    points, samples = shown["points"], shown["guidance"]
    row = [(f"guidance {s:g}", samples[s][0]) for s in (0.0, 1.0, 3.0, 10.0)]
    draw = figures.clouds([row], points, classes=samples[1.0][1])
    clouds = folder.draw(
        "6_guidance", draw, 960, 265, "Samples of three classes at four scales of guidance, coloured by the class asked for",
        "The plain MLP; colour is the class asked for. At scale 0 the class is not heard. At 1, without guidance, one arc runs "
        "into the next; at 3 they are apart; at 10 they crowd together, and some leave the data.",
    )  # fmt: skip
    sigma, limit, places = 0.3, 1.35, figures.lattice()
    x, t = jnp.asarray(places * limit), schedule.t_from_logsnr(jnp.float32(-2 * np.log(sigma)))
    model = shown["fields"]["classes"]
    given, null = (model(x, t, jnp.asarray(np.repeat(c, len(x), axis=0))).x0 for c in (one_hot([1]), NULL))
    arrows = [np.asarray(a) for a in (given - x, null - x, given - null)]
    columns = [(name, limit) for name in ("the middle class", "no class", "their difference")]
    draw = figures.fields(columns, [("σ = 0.3", arrows)], places, points)
    fields = folder.draw(
        "6_fields", draw, 960, 330, "The conditional field, the unconditional field and their difference",
        "The network on Fourier features, lengths by their square root. Guidance adds more of the third panel: away from what "
        "every class has in common, towards the middle class.",
    )  # fmt: skip
    charts, rows = [], []
    scales = [r["scale"] for r in found["guidance"]["features"]]
    for title, key in (("Right class", "accuracy"), ("Points reached", "covered")):
        lines = tuple(
            Series(name, scales, [r[key] for r in found["guidance"][who]], colour, marks=True)
            for who, name, colour in (("features", "Fourier features", "s1"), ("plain", "plain MLP", "s2"))
        )  # fmt: skip
        charts.append((title, Chart(lines, "guidance scale", title.lower(), percent=True, y_limits=(0, 1)), ""))
    for fine, plain in zip(found["guidance"]["features"], found["guidance"]["plain"], strict=True):
        both = (fine, plain)
        shares = [f"{r[key]:.1%}" for key in ("accuracy", "off_class") for r in both]
        reached = [f"{100 * r['covered']:.0f}" for r in both]
        rows.append((f"{fine['scale']:g}", *shares, *reached, *(f"{r['off_curve']:.3f}" for r in both)))
    heads = [
        f"{what}, {who}" for what in ("Right", "Off-class", "Reached", "Off the curve") for who in ("features", "plain")
    ]
    table = Table(
        ("Scale", *heads), tuple(rows), numeric=frozenset(range(9)),
        caption="0 is the model without a condition, 1 the conditional model without guidance. DDIM, 64 steps, 2000 samples. "
        "Right: the data point nearest to the sample is of the class asked for. What too much guidance costs: points reached.",
    )  # fmt: skip
    return clouds, fields, folder.charts("6_scales", charts), table


def _negative(folder: Folder, found: dict[str, Any], shown: dict[str, Any]) -> tuple[Block, ...]:
    names = [f"not the {name} arc" for name in ("inner", "middle", "outer")]
    rows = [
        [(names[k] + ("" if wanted is None else f", class {wanted}"), shown["negative"][k, wanted, "negative"])]
        for k in range(len(ARCS))
        for wanted in (None, 1 if k != 1 else 2)
    ]
    row = [("no prompt at all", shown["negative"][0, None, "unguided"]), *(rows[2 * k][0] for k in range(3))]
    figure = folder.draw(
        "7_negative", figures.clouds([row], shown["points"]), 960, 265, "Samples kept away from one arc each",
        "No positive prompt: the unconditional model, pushed from one class at scale 3. Away is not towards anything: kept "
        "from the inner arc, many samples are pushed out beyond the data.",
    )  # fmt: skip
    cells = []
    for r in found["negative"]:
        wanted = "nothing" if r["wanted"] is None else f"the {('inner', 'middle', 'outer')[r['wanted']]} arc"
        off = [f"{r[f'off_class_{name}']:.1%}" if r["wanted"] is not None else "" for name in ("unguided", "negative")]
        off += [f"{r[f'off_curve_{name}']:.3f}" for name in ("unguided", "negative")]
        cells.append((wanted, names[r["unwanted"]], f"{r['unguided']:.1%}", f"{r['negative']:.1%}", *off))
    table = Table(
        (
            "Asked for", "Negative prompt", "In that arc, without", "In that arc, with", "Off-class, without",
            "Off-class, with", "Off the curve, without", "Off the curve, with",
        ),
        tuple(cells), numeric=frozenset(range(2, 8)),
        caption="Shares of 2000 samples in the arc that is not wanted, shares in any arc but the one asked for, and mean "
        "distance to the curve; guidance 3. A negative prompt takes the place of the unconditional model and only pushes away "
        "from its own class: asked for the middle and away from the inner arc, many samples overshoot into the outer.",
    )  # fmt: skip
    return figure, table


def _solvers(folder: Folder, found: dict[str, Any]) -> tuple[Block, ...]:
    rows = found["solvers"]
    groups = (
        ("Deterministic", ("ddim", "heun", "dpm_solver_pp", "ipndm")),
        ("Stochastic", ("ddpm", "euler_maruyama", "sa_solver", "edm_stochastic")),
    )
    charts = []
    for title, names in groups:
        lines = []
        for name, colour in zip(names, COLOURS, strict=True):
            mine = [r for r in rows if r["solver"] == name]
            xs, ys = [r["evaluations"] for r in mine], [r["error"] for r in mine]
            lines.append(Series(name, xs, ys, colour, marks=True))
        charts.append((title, Chart(tuple(lines), "evaluations", "energy distance to the data", log_y=True), ""))
    budgets = sorted({r["budget"] for r in rows})

    def cell(name: str, budget: int) -> str:
        row = next((r for r in rows if r["solver"] == name and r["budget"] == budget), None)
        return (
            "" if row is None else f"{1000 * row['error']:.2f} / {100 * row['covered']:.0f} ({row['evaluations']:.0f})"
        )

    table = Table(
        ("Solver", *(f"≤ {b}" for b in budgets)),
        tuple((name, *(cell(name, b) for b in budgets)) for name in dict.fromkeys(r["solver"] for r in rows)),
        numeric=frozenset(range(1, len(budgets) + 1)),
        caption="Energy distance to the data in thousandths / points reached of 100 (evaluations of the exact denoiser, with "
        "the last look at the clean data). About .3 is what 2000 independent draws have. adaptive_ode takes what its tolerance "
        "needs; consistency is for distilled models.",
    )
    return folder.charts("8_solvers", charts), table


def _flow(folder: Folder, shown: dict[str, Any]) -> tuple[Block, ...]:
    paths = shown["paths"]
    steps = len(next(iter(paths.values()))) - 1
    frames = np.unique(np.round(np.linspace(0.15, 1, 44) * steps).astype(int))
    labels = [f"t = {1 - i / steps:.2f}" for i in frames]
    figure = animation(
        {name: xs[frames] for name, xs in paths.items()}, labels, limit=1.5, seconds=9.0,
        alt="Three hundred points flowing from noise to the spiral under the SDE and under the ODE",
        caption="The same network and the same starting points. The SDE shakes every point all the way and settles late; the "
        "ODE carries each on a smooth line. Points within ±1.5 are shown. Hold the pointer over it to stop.",
    )  # fmt: skip
    some = [int(i * steps) for i in (0.45, 0.6, 0.7, 0.8, 1.0)]
    strips = [[(f"{name}, t = {1 - i / steps:.2f}", xs[i]) for i in some] for name, xs in paths.items()]
    draw = figures.clouds(strips, shown["points"])
    write_atomic(folder.path / "9_flow.png", drawing_png(draw, width=960, height=410))
    return (figure,)


def _likelihood(folder: Folder, found: dict[str, Any], shown: dict[str, Any]) -> tuple[Block, ...]:
    data, numbers = shown["likelihood"], found["likelihood"]
    draw = figures.agreement(data["exact"], data["model"], "exact log p, nats", "the model's log p, nats")
    figure = folder.draw(
        "10_likelihood", draw, 420, 380,
        "Log-likelihood under the model against the exact density, 256 draws",
        f"Draws from the data smoothed at σ = .01. Mean {numbers['model']:.2f} nats under the trained model "
        f"(probability-flow ODE, exact divergence), {numbers['exact']:.2f} under the exact density; median difference "
        f"{numbers['median_gap']:.2f}.",
    )  # fmt: skip
    return (figure,)
