"""Every solver against the number of evaluations: which one should be taken at 5, 10, 20, 50?

    python -m experiments.solvers [--out runs/solvers] [--digits runs/digits/diffusion] [--docs docs]

On a mixture of Gaussians in 8 dimensions with its exact denoiser, error is the root mean square distance to the exact
end of each ODE trajectory (solved to 1e-9), and for stochastic solvers the distance between the distributions (the root
of the energy distance). On the digits model, where a run is given, it is the distance to the solution of 500 steps of
Heun. Writes `solvers.json`, `solvers.png` and `solvers.md`; with --docs the latter two are copied there. About seven
minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.arguments import made_folder

BUDGETS = (5, 10, 20, 50)
GRIDS = ("logsnr", "karras", "uniform")
GRID_COLUMNS = ("uniform", "karras", "logsnr", "quadratic")


def table_of_solvers() -> dict[str, tuple[Any, int, bool]]:
    """Name -> (solver, evaluations a step, whether it draws noise)."""
    from diffusion_jax import sampling as s

    return {
        "DDIM / Euler": (s.DDIM(), 1, False),
        "Heun": (s.Heun(), 2, False),
        "DPM-Solver-2": (s.DPMSolver(2), 2, False),
        "DPM-Solver-3": (s.DPMSolver(3), 3, False),
        "DPM-Solver++ 2M": (s.DPMSolverPP(2), 1, False),
        "DPM-Solver++ 3M": (s.DPMSolverPP(3), 1, False),
        "DPM-Solver++ 2S": (s.DPMSolverPP(2, multistep=False), 2, False),
        "UniPC-2": (s.UniPC(2), 1, False),
        "UniPC-3": (s.UniPC(3), 1, False),
        "DEIS-2 (t)": (s.DEIS(2), 1, False),
        "DEIS-3 (t)": (s.DEIS(3), 1, False),
        "DEIS-3 (log rho)": (s.DEIS(3, "logrho"), 1, False),
        "iPNDM-4": (s.IPNDM(4), 1, False),
        "LMS-4": (s.LMS(4), 1, False),
        "SA-Solver, tau 0": (s.SASolver(tau=0.0), 1, False),
        "DDPM": (s.DDPM(), 1, True),
        "Euler ancestral": (s.EulerAncestral(), 1, True),
        "DPM-Solver++ 2M SDE": (s.DPMSolverPP(2, sde=True), 1, True),
        "DPM-Solver++ 3M SDE": (s.DPMSolverPP(3, sde=True), 1, True),
        "SA-Solver, tau 1": (s.SASolver(), 1, True),
        "EDM stochastic": (s.EDMStochastic(), 2, True),
    }


def main() -> int:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/solvers"))
    parser.add_argument("--digits", type=Path, help="a trained diffusion run, e.g. runs/digits/diffusion")
    parser.add_argument("--docs", type=Path, help="where the table and the picture are copied")
    arguments = parser.parse_args()

    from diffusion_jax.cli import guarded

    return guarded(lambda: compare(arguments.out, arguments.digits, arguments.docs))


def compare(out: Path, digits: Path | None, docs: Path | None) -> int:
    """All problems, all solvers, all budgets; each solver on the best of the grids."""
    made_folder("--out", out)
    if docs is not None:
        made_folder("--docs", docs)
    problems = {"mixture": mixture_problem()}
    if digits is not None:
        problems["digits"] = digits_problem(digits)
    results = {name: measure(name, *problem) for name, problem in problems.items()}
    (out / "solvers.json").write_text(json.dumps(results, indent=1))
    draw(results, out / "solvers.png")
    (out / "solvers.md").write_text(page(results))
    print(f"wrote {out}/solvers.md, solvers.png, solvers.json")
    if docs is not None:
        for name in ("solvers.md", "solvers.png"):
            shutil.copy(out / name, docs / name)
    return 0


def mixture_problem() -> tuple[Callable[..., np.ndarray], np.ndarray, Any]:
    """(run(solver, ts) -> samples, reference samples, schedule) for the mixture."""
    import jax
    import jax.numpy as jnp

    from diffusion_jax.process import VPLinear, exact
    from diffusion_jax.sampling import AdaptiveODE, initial_noise, sample

    schedule, key = VPLinear(), jax.random.key(0)
    means = jax.random.normal(jax.random.key(1), (6, 8))
    model = exact.mixture(schedule, means, jnp.linspace(0.1, 0.4, 6))
    x1 = initial_noise(key, (512, 8), schedule)

    def run(solver: Any, ts: np.ndarray) -> np.ndarray:
        return np.asarray(sample(model, schedule, solver, x1, ts, key))

    with jax.enable_x64(True):
        fine = sample(model, schedule, AdaptiveODE(1e-9, 1e-9), x1.astype(jnp.float64), np.array([1.0, 0.0]), key)
    return run, np.asarray(fine), schedule


def digits_problem(folder: Path) -> tuple[Callable[..., np.ndarray], np.ndarray, Any]:
    """The digits model under guidance 1, prompts of all ten digits."""
    import jax

    from diffusion_jax.data.sources.digits import CLASS_NAMES
    from diffusion_jax.sampling import Heun, initial_noise, sample, uniform
    from diffusion_jax.systems.diffusion.run import DiffusionRun
    from diffusion_jax.systems.table import load_run
    from diffusion_jax.typing import UserError

    run_ = load_run(folder)
    if not isinstance(run_, DiffusionRun):
        raise UserError(f"{folder} is not a diffusion run; nearest: runs/digits/diffusion")
    cond = run_.encode_text([f"a {CLASS_NAMES[i % 10]}" for i in range(60)])
    schedule, key = run_.schedule, jax.random.key(0)
    x1 = initial_noise(key, (60, 8, 8, 1), schedule)

    def run(solver: Any, ts: np.ndarray) -> np.ndarray:
        return np.asarray(sample(run_.denoise, schedule, solver, x1, ts, key, cond))

    return run, run(Heun(), uniform(500, schedule)), schedule


def measure(
    name: str, run: Callable[..., np.ndarray], reference: np.ndarray, schedule: Any
) -> dict[str, dict[str, dict[str, Any]]]:
    """solver -> evaluations -> {"error", "grid", "steps", "stochastic"}: the smallest error over the grids."""
    from tqdm import tqdm

    from diffusion_jax import build
    from diffusion_jax.metrics import energy_distance

    flat = reference.reshape(len(reference), -1)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for solver_name, (solver, cost, stochastic) in tqdm(table_of_solvers().items(), desc=name, unit="solver"):
        found[solver_name] = {}
        for budget in BUDGETS:
            # The last step, to clean data, takes one evaluation: of a first-order step in all of these.
            steps = (budget - 1) // cost + 1
            best: dict[str, Any] | None = None
            for grid in GRIDS:
                x = run(solver, build.grid(grid, steps, schedule)).reshape(len(flat), -1)
                if not np.isfinite(x).all():
                    continue
                error = energy_distance(x, flat) ** 0.5 if stochastic else float(np.sqrt(np.mean((x - flat) ** 2)))
                if best is None or error < best["error"]:
                    best = {"error": error, "grid": grid, "steps": steps, "stochastic": stochastic}
            found[solver_name][str(budget)] = best or {"error": float("nan"), "grid": "-", "stochastic": stochastic}
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Error against evaluations, one panel a problem, logarithmic in both."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(7.5 * len(results), 6.2), squeeze=False)
    for axis, (problem, table) in zip(axes[0], results.items(), strict=True):
        curves = {n: row for n, row in table.items() if not row["5"]["stochastic"]}
        for index, (name, row) in enumerate(curves.items()):
            style = ("-", "--", ":")[index // 10]
            axis.plot(BUDGETS, [row[str(b)]["error"] for b in BUDGETS], style, marker="o", ms=4, label=name)
        axis.set(
            xscale="log", yscale="log", xlabel="evaluations of the denoiser", title=f"{problem}: error of ODE solvers"
        )
        axis.set_ylabel("root mean square distance to the exact trajectory's end")
        axis.set_xticks(BUDGETS, [str(b) for b in BUDGETS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9)
    figure.savefig(path, dpi=90, bbox_inches="tight")
    plt.close(figure)


def page(results: dict[str, Any]) -> str:
    """The tables, and the advice that follows from them."""
    lines = [
        "# Solvers at equal evaluations",
        "",
        "Made by `python -m experiments.solvers --digits runs/digits/diffusion --docs docs` on a run of "
        "`configs/digits_diffusion.py` without a variant; see there for the problems, "
        "and [own_parts.md](own_parts.md) for a solver or a grid of your own. ",
    ]
    lines[-1] += (
        "Each entry is the best of the grids logsnr (l), Karras (k) and uniform (u). Errors of stochastic solvers are "
    )
    lines[-1] += (
        "energy distances between distributions and not comparable with the others: two draws of one law differ by "
    )
    lines[-1] += (
        "about 0.1 (512 points of the mixture) and 0.34 (60 digits), so that only larger values tell methods apart."
    )
    lines += ["", "## Which one?", ""]
    lines += ["By the geometric mean of the errors over the problems below, among the ODE solvers:", ""]
    lines += [f"- {b} evaluations: {_advice(results, b)}" for b in BUDGETS]
    lines += which_grid()
    for problem, table in results.items():
        for stochastic in (False, True):
            rows = {name: row for name, row in table.items() if row["5"]["stochastic"] == stochastic}
            what = "stochastic solvers, energy distance" if stochastic else "ODE solvers, distance to the exact end"
            lines += ["", f"## {problem}: {what}", "", "| solver | 5 | 10 | 20 | 50 |", "|---|---|---|---|---|"]
            best = {b: min(row[str(b)]["error"] for row in rows.values()) for b in BUDGETS}
            for name, row in rows.items():
                cells = []
                for b in BUDGETS:
                    entry = row[str(b)]
                    mark = "**" if entry["error"] == best[b] else ""
                    cells.append(f"{mark}{entry['error']:.3g}{mark} {entry['grid'][0]}")
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
            lines += ["", "Smallest: " + "; ".join(_first(rows, b) for b in BUDGETS) + "."]
    return "\n".join([*lines, "", "![error against evaluations](solvers.png)", ""])


def which_grid() -> list[str]:
    """The section on grids: what each schedule's keep of the spread of Gaussian data, in closed form."""
    from diffusion_jax import build
    from diffusion_jax.sampling.natural import spread_kept

    lines = [
        "",
        "## Which grid?",
        "",
        "`natural`, which is also what a config without a grid means, is the grid that goes with the schedule: the table's own "
        "steps (`discrete`) for a table of betas, Karras's spacing (`karras`) for EDM, equal steps of t (`uniform`) for the "
        "others. The share of the data's standard deviation that DDIM keeps in 20 steps, on Gaussian data of .5, in closed "
        "form, and the natural grid:",
        "",
        f"| schedule | {' | '.join(GRID_COLUMNS)} | natural |",
        f"|---|{'---|' * (len(GRID_COLUMNS) + 1)}",
    ]
    for name in ("vp_linear", "sub_vp", "cosine", "rectified_flow", "discrete", "ve", "edm"):
        schedule = build.schedule({"name": name})
        kept = [f"{spread_kept(build.grid(grid, 20, schedule), schedule):.2f}" for grid in GRID_COLUMNS]
        lines.append(f"| {name} | {' | '.join(kept)} | {build.grid_name('natural', 20, schedule)} |")
    return [
        *lines,
        "",
        "A grid that keeps less than half of what the natural one does is warned of in a line, when training begins and when "
        "samples are drawn.",
    ]


def _advice(results: dict[str, Any], budget: int) -> str:
    tables = list(results.values())
    names = [name for name, row in tables[0].items() if not row["5"]["stochastic"]]
    means = {n: float(np.exp(np.mean([np.log(t[n][str(budget)]["error"]) for t in tables]))) for n in names}
    ranked = sorted(names, key=lambda name: means[name])
    ratio = means["DDIM / Euler"] / means[ranked[0]]
    grids = " and ".join(sorted({table[ranked[0]][str(budget)]["grid"] for table in tables}))
    return f"{ranked[0]} (grid {grids}), then {ranked[1]} and {ranked[2]}; {ratio:.1f} times nearer than DDIM"


def _first(rows: dict[str, Any], budget: int) -> str:
    ranked = sorted(rows, key=lambda name: rows[name][str(budget)]["error"])
    entry = rows[ranked[0]][str(budget)]
    return f"at {budget} evaluations {ranked[0]} on {entry['grid']}, then {ranked[1]}"


if __name__ == "__main__":
    raise SystemExit(main())
