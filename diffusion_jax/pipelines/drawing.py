"""From noise, or a picture's latent, to latents of prompts or classes: a plan, guidance and the one driver, in batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax import build
from diffusion_jax.build import guidance as guidances
from diffusion_jax.parallel.mesh import batch_devices, make_mesh, put_batch, replicated
from diffusion_jax.pipelines.checks import falling, number, solves, tile_of
from diffusion_jax.pipelines.scheduler import Plan, Scheduler, UnderScheduler, kept_steps
from diffusion_jax.pipelines.shown import Shown, bar
from diffusion_jax.process import denoiser
from diffusion_jax.sampling import initial_noise, optional, sample
from diffusion_jax.sampling.editing.inpainting import Inpaint
from diffusion_jax.sampling.given import with_noise
from diffusion_jax.sampling.grids import exactly
from diffusion_jax.systems.vae.pretrained import Autoencoder
from diffusion_jax.typing import Array, DenoiseFn, Params, PyTree, Solver, UserError

__all__ = ["Begun", "OwnPlan", "decoded", "drawn", "plan_of"]


@dataclasses.dataclass(frozen=True)
class Begun:
    """What a drawing begins with: latents [n, h, w, c] of pictures, and of inpainting either the mask [n, h, w, 1], 1 where
    it is drawn anew, or what is joined to the U-Net's input."""

    latents: Array
    mask: Array | None = None
    joined: Array | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class OwnPlan(UnderScheduler):
    """A solver and a grid of this library under the noise of a folder: a `Plan` of one's own."""

    scheduler: Scheduler
    solver: Any
    ts: np.ndarray

    @property
    def noise_scale(self) -> float:
        """sigma at the first time."""
        return float(exactly(self.schedule.sigma, self.ts[0]))

    def sample(
        self, denoise: DenoiseFn, x1: Array, key: Array, cond: PyTree = None, *, noise: ArrayLike | None = None
    ) -> Array:
        """As `Plan.sample`."""
        solver = self.solver if noise is None else with_noise(self.solver, noise)
        return sample(denoise, self.schedule, solver, x1, self.ts, key, cond)


def plan_of(
    scheduler: Scheduler,
    num_steps: int,
    *,
    solver: str | Solver | None = None,
    grid: Any = None,
    eta: float | None = None,
    strength: float = 1.0,
) -> Plan | OwnPlan:
    """The plan of the folder's scheduler, or, where a `solver` or `grid` is given, of these on the folder's noise.

    A solver alone has the table's own steps, a grid alone DPM-Solver++; of both a `strength` in (0, 1] keeps the last
    int(n strength) of n steps. Raises UserError for names that are not known, for a strength that leaves no step, and for `eta`
    beside a solver that is no name.
    """
    eta = None if eta is None else number("eta", eta, "0 (none) to 1 (as DDPM)")
    if solver is None and grid is None:
        return scheduler.plan(num_steps, strength=strength, eta=eta or 0.0)
    if eta is not None and not isinstance(solver, str):
        raise UserError(f"eta {eta} goes with the folder's scheduler or the name of a solver: set it in the solver")
    chosen: Any = "dpm_solver_pp" if solver is None else solver if isinstance(solver, str) else solves(solver)
    if isinstance(chosen, str):
        chosen = build.solver(chosen, **({} if eta is None else {"eta": eta}))
    grid = "natural" if grid is None else grid
    ts = build.grid(grid, num_steps, scheduler.schedule) if isinstance(grid, str) else falling(grid)
    return OwnPlan(scheduler, chosen, ts[len(ts) - 1 - kept_steps(len(ts) - 1, strength) :])


def drawn(
    plan: Plan | OwnPlan,
    apply: Callable[..., Array],
    params: Params,
    cond: dict[str, Array],
    away: dict[str, Array],
    keys: Array,
    shape: tuple[int, ...],
    *,
    guidance_scale: float,
    guidance: Mapping[str, Any] | str | None = None,
    noise: ArrayLike | None = None,
    begun: Begun | None = None,
    strength: float = 1.0,
    batch_size: int = 4,
    learned_variance: bool = False,
    shown: bool = True,
) -> Array:
    """Latents [n, *shape] of n conditions, each of its own key [n]; over all local devices, `batch_size` at a time.

    `noise` [n, *shape] of unit variance takes the place of the keys' own, [1 + steps, n, *shape] also in each step. With
    `learned_variance` the network gives twice the channels, for steps that ask for a variance. Raises UserError for noise of
    another shape.
    """
    count = len(keys)
    drawn_noise = None
    if noise is not None and np.ndim(noise) == 2 + len(shape):
        noise, drawn_noise = np.asarray(noise)[0], np.asarray(noise, np.float32)[1:]
        if len(drawn_noise) != len(plan.ts) - 1:
            raise UserError(
                f"noise has {len(drawn_noise)} arrays after the first for {len(plan.ts) - 1} steps: one each"
            )
    if noise is not None and np.shape(noise) != (count, *shape):
        raise UserError(f"noise has shape {np.shape(noise)}; {count} pictures of this size need {(count, *shape)}")
    if guidances.spec_of(guidance)["name"] == "cfg_plus_plus" and not optional.from_pair(plan.solver):
        raise UserError(
            f"guidance 'cfg_plus_plus' needs a solver of first order, which {plan.solver!r} is not; nearest: ddim"
        )
    unit = initial_noise(keys, (count, *shape)) if noise is None else jnp.asarray(noise, jnp.float32)
    fills = begun is not None and (begun.mask is not None or begun.joined is not None)
    # What is filled in from nothing begins with noise alone.
    alone = begun is None or (fills and strength == 1)
    x1 = unit * plan.noise_scale if alone or begun is None else plan.noised(begun.latents, unit)
    mesh = make_mesh(devices=jax.local_devices())
    size = -(-min(batch_size, count) // batch_devices(mesh)) * batch_devices(mesh)
    network = denoiser(apply, params, plan.schedule, plan.prediction, plan.time, learned_variance=learned_variance)
    model = jax.device_put(network, replicated(mesh))
    arrays = {"x1": x1, "keys": keys, "cond": cond, "away": away, "unit": unit}
    if begun is not None and begun.mask is not None:
        arrays |= {"known": begun.latents, "kept": begun.mask == 0}
    found = []
    with bar("drawing", -(-count // size) * (len(plan.ts) - 1), shown):
        for first in range(0, count, size):
            places = np.minimum(np.arange(first, first + size), count - 1)
            part = put_batch(jax.tree.map(lambda leaf: leaf[places], arrays), mesh)  # noqa: B023
            guided = guidances.guided(
                guidance, model, part["away"], guidance_scale, schedule=plan.schedule, prediction=plan.prediction
            )
            solver: Any = Shown(plan.solver) if shown else plan.solver
            if "kept" in part:
                solver = Inpaint(solver, part["known"], part["kept"], noise=part["unit"])
            step_noise = None if drawn_noise is None else drawn_noise[:, places]
            x0 = dataclasses.replace(plan, solver=solver).sample(
                guided, part["x1"], part["keys"], part["cond"], noise=step_noise
            )
            found.append(np.asarray(x0)[: count - first])
    return jnp.asarray(np.concatenate(found))


def decoded(vae: Autoencoder, latents: ArrayLike, tile: int | None = None) -> np.ndarray:
    """Pictures float32 [n, height, width, 3] in [-1, 1] of latents of unit scale, one after the other; `tile` in pixels."""
    z = jnp.asarray(latents)
    tile = tile_of(vae, tile)
    found = [np.asarray(vae.decode(z[i : i + 1], tile=tile)) for i in range(len(z))]
    return np.clip(np.concatenate(found), -1.0, 1.0)
