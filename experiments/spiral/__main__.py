"""Diffusion told on a spiral: every figure with a number beside it, and a target.

    python -m experiments.spiral [--out runs/spiral] [--seed 0]

A hundred points on a spiral (the settings of smalldiffusion and of Welch Labs), noised by VE with sigma from .01 to 10.
Trains three networks with the library's loop: an MLP on Fourier features, the same with the three classes as its
condition, and a plain MLP to compare with. Measures what they do beside what a perfect network would, and writes
`report/index.html`, the figures as PNG and `metrics.json`. About four minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.cli import guarded
from diffusion_jax.files import write_atomic
from diffusion_jax.nets import MLP, Network
from diffusion_jax.parallel.accelerator import configure
from diffusion_jax.parallel.mesh import make_mesh
from diffusion_jax.process import VE, denoiser, exact, times, weighting
from diffusion_jax.systems.diffusion.loss import diffusion_loss
from diffusion_jax.train.ema import Ema
from diffusion_jax.train.loop import fit
from diffusion_jax.train.optim import adamw
from diffusion_jax.train.state import init_state
from diffusion_jax.typing import DenoiseFn, Params, Schedule
from experiments.arguments import made_folder, one_seed
from experiments.spiral import measures, page, targets

SCALES = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
BUDGETS = (8, 16, 32, 64)
SIGMAS = (1.0, 0.5, 0.3, 0.15)
STEPS = 64
NEGATIVE_SCALE = 3.0


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network, its averaged weights, and what it predicts; `at(schedule)` is its denoiser."""

    network: Network
    params: Params
    prediction: str

    def at(self, schedule: Schedule) -> DenoiseFn:
        """The DenoiseFn under a schedule; the network sees the noise level, so any of alpha 1 will do."""
        return denoiser(self.network.apply, self.params, schedule, self.prediction, "logsnr")


def train(
    name: str, network: Network, points: np.ndarray, schedule: Schedule, *, prediction: str, rate: float, steps: int,
    repeats: int, seed: int, cond: np.ndarray | None = None, drop: float = 0.0, decay: str = "cosine",
) -> Model:  # fmt: skip
    """The network trained on all points, each `repeats` times a batch with noise of its own."""
    loss_fn = diffusion_loss(
        network.apply, schedule, prediction=prediction, time="logsnr", space="eps", weight=weighting.eps_simple(),
        sample_t=times.stratified, drop=drop,
    )  # fmt: skip
    batch = {"image": np.tile(points, (repeats, 1))} | ({} if cond is None else {"cond": np.tile(cond, (repeats, 1))})
    tx, ema, mesh = adamw(rate, 0, steps, decay), Ema(0.999), make_mesh(devices=jax.devices()[:1])
    key = jax.random.fold_in(jax.random.key(seed), sum(map(ord, name)))
    state = init_state(network.init(key), tx, ema, frozen={"null": measures.NULL}, mesh=mesh)
    state = fit(
        state=state, loss_fn=loss_fn, tx=tx, ema=ema, batches=lambda step: batch, steps=steps, mesh=mesh,
        batch_size=len(batch["image"]), key=key, log_every=1000, name=name,
    )  # fmt: skip
    return Model(network, state.ema, prediction)


def train_all(points: np.ndarray, schedule: Schedule, seed: int, quick: bool) -> dict[str, Model]:
    """The four networks: on Fourier features and plain, without and with the classes as their condition."""

    def features(**more: Any) -> Network:
        return Network(lambda rngs: MLP(rngs, features=32, std=6.0, **more))

    def plain(**more: Any) -> Network:
        return Network(lambda rngs: MLP(rngs, widths=(16, 128, 128, 128, 128, 16), **more))

    classes: dict[str, Any] = {"cond": measures.one_hot(measures.arcs()), "drop": 0.1}
    shared: dict[str, Any] = {"points": points, "schedule": schedule, "seed": seed}
    fine = shared | {"prediction": "edm", "rate": 2e-3, "steps": 60 if quick else 7000, "repeats": 10}
    rough = shared | {"prediction": "eps", "rate": 1e-3, "steps": 60 if quick else 15000, "repeats": 1}
    rough["decay"] = "constant"
    return {
        "features": train("points", features(), **fine),
        "features, classes": train("points and classes", features(classes=3), **fine, **classes),
        "plain": train("plain network", plain(), **rough),
        "plain, classes": train("plain network and classes", plain(classes=3), **rough, **classes),
    }


def tell(out: Path, seed: int, quick: bool = False) -> dict[str, Any]:
    """Trains, measures, writes; returns the metrics. `quick` trains for a moment, to see that everything runs."""
    began = time.perf_counter()
    points, schedule = measures.spiral(), VE(measures.SIGMA_MIN, measures.SIGMA_MAX)
    stage = Stages(began)
    stage("1/5 training four networks")
    models = train_all(points, schedule, seed, quick)
    model, conditional = models["features"], models["features, classes"]
    found: dict[str, Any] = {"seed": seed, "quick": quick}
    shown: dict[str, Any] = {"points": points}

    stage("2/5 the field: losses, targets, the transition, attractors")
    true, learned = exact.point_set(schedule, points), model.at(schedule)
    forward_process(found, shown, schedule, points, seed)
    found["eps_loss"] = {"floor": measures.eps_loss(true, schedule, points)} | {
        name: measures.eps_loss(models[name].at(schedule), schedule, points) for name in ("features", "plain")
    }
    ts = np.linspace(0.1, 1.0, 10)
    noise = measures.noise_of_targets(true, model.network.apply, model.params, schedule, points, ts, 1 / 200)
    found["targets"] = {"t": ts.tolist()} | noise
    field(found, schedule, points, true, learned)

    stage("3/5 sampling, with noise and without, against the exact denoiser")
    found["table"], shown["table"] = {}, {}
    makers = {"exact": lambda s: exact.point_set(s, points), "features": model.at, "plain": models["plain"].at}
    for name, make in makers.items():
        found["table"][name], shown["table"][name] = measures.table(make, points, seed, tenth=name == "features")
    levels = (0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
    found["marginals"] = {
        name: measures.marginals(denoise, schedule, points, 200, levels, seed)
        for name, denoise in (("exact", true), ("features", learned))
    }
    shown["paths"] = {
        name: measures.path(learned, schedule, solver, 120, seed)
        for name, solver in (("SDE (DDPM)", measures.WAYS["DDPM"]), ("ODE (DDIM)", measures.WAYS["DDIM"]))
    }

    stage("4/5 classes, guidance, negative prompts")
    found["guidance"] = {}
    for name in ("features", "plain"):
        denoise = models[f"{name}, classes"].at(schedule)
        found["guidance"][name], shown["guidance"] = measures.guidance(denoise, schedule, points, SCALES, STEPS, seed)
    denoise = conditional.at(schedule)
    found["negative"], shown["negative"] = measures.negatives(denoise, schedule, points, NEGATIVE_SCALE, STEPS, seed)
    shown["fields"] = {"exact": true, "trained": learned, "classes": denoise}

    stage("5/5 every solver, likelihood")
    found["solvers"] = measures.solvers(true, schedule, points, BUDGETS[:1] if quick else BUDGETS, seed, stage.more)
    shown["likelihood"] = likelihood = measures.likelihood(learned, true, schedule, points, 256, seed)
    gap = likelihood["model"] - likelihood["exact"]
    found["likelihood"] = {
        "model": float(likelihood["model"].mean()), "exact": float(likelihood["exact"].mean()),
        "median_gap": float(np.median(gap)), "mean_size_of_gap": float(np.abs(gap).mean()),
    }  # fmt: skip
    found["checks"] = targets.as_rows(found)
    found["seconds"] = round(time.perf_counter() - began, 1)
    report = out / "report"
    report.mkdir(parents=True, exist_ok=True)
    where = page.write(report, schedule, found, shown)
    found["seconds"] = round(time.perf_counter() - began, 1)
    write_atomic(report / "metrics.json", (json.dumps(found, indent=1) + "\n").encode())
    stage(f"look at {where} ({found['seconds']:.0f} s)")
    return found


def forward_process(found: dict, shown: dict, schedule: Schedule, points: np.ndarray, seed: int) -> None:
    """Random walks from the data, and the spread of the cloud beside sqrt(Var + sigma^2)."""
    ts, paths = measures.walks(schedule, points, jax.random.key(seed), measures.COUNT, 200)
    at = [int(np.argmin(np.abs(ts - t))) for t in (0.0, 0.25, 0.4, 0.55, 0.7)]
    rows = []
    for i in at:
        sigma = float(schedule.sigma(jnp.float32(ts[i])))
        wanted = float(np.sqrt(points.var(axis=0).mean() + sigma**2))
        rows.append(
            {"t": float(ts[i]), "sigma": sigma, "std": float(paths[i].std(axis=0).mean()), "closed_form": wanted}
        )
    found["forward"] = rows
    shown["walks"] = ts, paths, at


def field(found: dict, schedule: Schedule, points: np.ndarray, true: DenoiseFn, learned: DenoiseFn) -> None:
    """Where the field turns from the mean to the points, and where x -> x0_hat comes to rest; exact beside trained."""
    fine = np.geomspace(0.03, 5.0, 24)
    found["transition"] = {"sigmas": list(SIGMAS), "curve_sigmas": fine.tolist()}
    for name, denoise in (("exact", true), ("trained", learned)):
        curve = measures.known_share(denoise, schedule, points, fine)
        found["transition"][name] = measures.known_share(denoise, schedule, points, SIGMAS)
        found["transition"][f"{name}_curve"] = curve
        found["transition"][f"{name}_half"] = measures.crossing(fine, curve)
    levels = (0.3, 0.12, 0.10, 0.08, 0.05)
    with jax.enable_x64(True):
        wide = points.astype(np.float64)
        rests = [measures.attractors(exact.point_set(schedule, wide), schedule, wide, s) for s in levels]
    found["attractors"] = {
        "sigmas": list(levels), "exact": rests,
        "trained": [measures.attractors(learned, schedule, points, s, 3000) for s in levels],
    }  # fmt: skip


class Stages:
    """Says what is being done, with the seconds so far; `more` adds small steps to a stage on a terminal."""

    def __init__(self, began: float) -> None:
        self.began = began

    def __call__(self, what: str) -> None:
        """A stage begins."""
        print(f"[{time.perf_counter() - self.began:5.0f} s] {what}", flush=True)

    def more(self, what: str) -> None:
        """A step within the stage, on the error stream."""
        print(f"          {what}", file=sys.stderr, flush=True)


def main() -> int:
    """Parse and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/spiral"), help="where report/ is written")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, training noise and samples")
    parser.add_argument("--quick", action="store_true", help="train for a moment only: does everything run?")
    arguments = parser.parse_args()

    def run() -> int:
        seed, out = one_seed(arguments.seed), made_folder("--out", arguments.out)
        configure(print)
        tell(out, seed, arguments.quick)
        return 0

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
