"""A diffusers folder's `scheduler_config.json`, run with the schedules, solvers and driver of this library.

    scheduler = read_scheduler(json.loads(path.read_text()), str(path))
    plan = scheduler.plan(30)                                  # plan(30, strength=0.6) from a picture
    model = denoiser(apply, params, plan.schedule, plan.prediction, plan.time)
    model = classifier_free(model, null, guidance_scale=7.5)   # any guidance
    x1 = plan.noise_scale * noise                              # or plan.noised(x0, noise) from a picture
    x0 = plan.sample(model, x1, key, cond)

The result is that of diffusers' scheduler of the same config: its timesteps exactly, its latents to rounding. Stable
Diffusion's own pipelines overwrite fields of the folder: `scheduler.in_stable_diffusion()`.

Any other solver and grid take the folder's place with its schedule and prediction alone:

    model = denoiser(apply, params, scheduler.schedule, scheduler.prediction, "index")
    x0 = sample(model, scheduler.schedule, UniPC(3), x1, karras(12, scheduler.schedule), key, cond)

Timesteps count a table of T betas from 0; step i is the time t = (i + 1) / T here. Noise levels are sigma / alpha.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.convert.fields import read
from diffusion_jax.pipelines.schedulers.courses import Asked, Course
from diffusion_jax.pipelines.schedulers.families import COURSES
from diffusion_jax.pipelines.schedulers.fields import CLASSES, PREDICTIONS, table
from diffusion_jax.pipelines.schedulers.levels import signal, table_of_levels
from diffusion_jax.pipelines.schedulers.limits import Consistency, limited
from diffusion_jax.process.discrete import Discrete
from diffusion_jax.process.sde import noised
from diffusion_jax.sampling.carried import carried, rounded
from diffusion_jax.sampling.given import with_noise
from diffusion_jax.sampling.guidance.steered import structured
from diffusion_jax.sampling.sample import Trace, sample, trace
from diffusion_jax.sampling.told import Told
from diffusion_jax.typing import DenoiseFn, PyTree, Schedule, UserError, one_of, whole_number

__all__ = ["Plan", "Scheduler", "UnderScheduler", "kept_steps", "read_scheduler"]

KEEPS_ZERO = ("DDIMScheduler", "DDPMScheduler", "LCMScheduler")
"""The classes whose table may end in alpha-bar = 0; the others, which divide by alpha, put 2^-24 in its place."""


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """A config as read: `name`, diffusers' class, and `fields`, each that it reads, in diffusers' names.

    `where` names the file in refusals. `shortens` is of an LCMScheduler in latent consistency's own pipelines: a strength
    shortens the list of timesteps that steps are drawn from, and leaves out no step. Made by `read_scheduler`.
    """

    name: str
    fields: Mapping[str, Any]
    where: str
    shortens: bool = False

    @functools.cached_property
    def _signal(self) -> np.ndarray:
        return signal(self.fields, divides=self.name not in KEEPS_ZERO)

    @functools.cached_property
    def schedule(self) -> Discrete:
        """The table of betas."""
        return Discrete.from_signal(self._signal)

    @property
    def prediction(self) -> str:
        """What the network predicts: "eps", "v" or "x0"."""
        return PREDICTIONS[self.fields["prediction_type"]]

    @property
    def time(self) -> str:
        """What the network is told of the time, for `denoiser`: "index", the timestep, or "c_noise", ln(sigma / alpha) / 4."""
        continuous = self.fields.get("timestep_type") == "continuous" and self.prediction == "v"
        return "c_noise" if continuous else "index"

    @property
    def learned_variance(self) -> bool:
        """Whether the network gives twice the channels, for `denoiser`."""
        return self.fields.get("variance_type") in ("learned", "learned_range")

    @property
    def usual_steps(self) -> int:
        """How many steps are drawn where none are asked for: 50, in latent consistency's own pipelines 4."""
        return 4 if self.shortens else 50

    def in_stable_diffusion(self, *, fills: bool = False) -> Scheduler:
        """With the fields that the pipelines of Stable Diffusion 1 and 2 overwrite: steps_offset 1, and clip_sample false, or
        of the one that `fills` in skip_prk_steps true."""
        others = {"skip_prk_steps": True} if fills else {"clip_sample": False}
        changed = {"steps_offset": 1} | {name: value for name, value in others.items() if name in self.fields}
        return dataclasses.replace(self, fields={**self.fields, **changed})

    def plan(self, num_steps: int, *, strength: float = 1.0, eta: float = 0.0) -> Plan:
        """The plan of `num_steps` steps as the folder's own scheduler takes them.

        `strength` in (0, 1] leaves out the first num_steps - int(num_steps strength) steps, for a start from a picture; where
        the scheduler `shortens`, all steps are taken, among the last int(original_inference_steps strength) of the
        distillation. `eta` in [0, 1] is DDIM's, which diffusers hands to each step. Raises UserError for numbers outside these
        ranges, for a strength that leaves no step or too few, and for a combination of fields that is not read.
        """
        whole_number("num_steps", num_steps, 1)
        kept = num_steps if self.shortens and 0 < strength <= 1 else kept_steps(num_steps, strength)
        if eta and self.name != "DDIMScheduler":
            raise UserError(f"eta {eta} is DDIMScheduler's alone, and {self.where} is of {self.name}; nearest: 0")
        asked = Asked(
            self.name,
            self.fields,
            self.schedule,
            table_of_levels(self._signal),
            num_steps,
            num_steps - kept,
            self.where,
            eta,
            strength if self.shortens else 1.0,
        )
        return _plan(self, asked, COURSES[self.name](asked))


def kept_steps(num_steps: int, strength: float) -> int:
    """How many of the last steps a strength in (0, 1] leaves, int(num_steps strength) as in diffusers.

    Raises UserError for a strength outside, and for one that leaves none.
    """
    if not 0 < strength <= 1:
        raise UserError(f"strength {strength} is not in (0, 1]; nearest: {1 if strength > 1 else _least(num_steps):g}")
    kept = min(int(num_steps * strength), num_steps)
    if kept < 1:
        raise UserError(f"strength {strength} of {num_steps} steps leaves none of them; nearest: {_least(num_steps):g}")
    return kept


def _least(num_steps: int) -> float:
    """The least strength of four places that leaves a step."""
    return math.ceil(1e4 / num_steps) / 1e4


class UnderScheduler:
    """What a plan has of its `scheduler`: the noise, and what its network predicts and is told."""

    scheduler: Scheduler
    ts: np.ndarray

    @property
    def schedule(self) -> Discrete:
        """The table of betas."""
        return self.scheduler.schedule

    @property
    def prediction(self) -> str:
        """What the network predicts."""
        return self.scheduler.prediction

    @property
    def time(self) -> str:
        """What the network is told of the time."""
        return self.scheduler.time

    @property
    def learned_variance(self) -> bool:
        """Whether the network gives twice the channels."""
        return self.scheduler.learned_variance

    def noised(self, x0: Array, noise: Array) -> Array:
        """x1 from a picture x0 [batch, ...] and unit noise of its shape: alpha x0 + sigma noise at the first time."""
        return noised(self.schedule, x0, noise, jnp.float32(self.ts[0]))


@dataclasses.dataclass(frozen=True, eq=False)
class Plan(UnderScheduler):
    """What `scheduler` does in n steps: `solver` on the grid `ts` under `schedule`.

    `ts` float64 [n + 1] are the times of the noise levels at which steps begin, and an end; `seen` float64 [n + 1] what the
    network is told there (the folder's timesteps; that of the end is never told), `between` float64 [k, 2] the times and
    timesteps of calls within steps. `timesteps` float64 [calls] is the folder's own list, one entry a call of the network.
    `noise_scale` times unit noise is x1. `prediction`, `time` and `learned_variance` are for `denoiser`.
    """

    scheduler: Scheduler
    solver: Any
    ts: np.ndarray
    seen: np.ndarray
    between: np.ndarray
    timesteps: np.ndarray
    noise_scale: float

    def ready(self, denoise: DenoiseFn, dtype: Any = jnp.float32) -> DenoiseFn:
        """`denoise` (guided or not) told the folder's timesteps, and with the folder's limits of x0, for `sample` and edits.

        `dtype` is that of the state.
        """
        times = np.concatenate([rounded(self.ts, jnp.zeros((), dtype)), self.between[:, 0].astype(dtype)])
        exact = np.concatenate([self.ts, self.between[:, 0]])
        made = carried(denoise, exact, times, np.concatenate([self.seen, self.between[:, 1]]))
        fields, name = self.scheduler.fields, self.scheduler.name
        keeps_eps = name == "DDIMScheduler"
        if fields.get("thresholding"):
            most, ratio = fields["sample_max_value"], fields["dynamic_thresholding_ratio"]
            made = limited(made, self.schedule, most, ratio, keeps_eps=keeps_eps)
        elif fields.get("clip_sample"):
            made = limited(made, self.schedule, fields["clip_sample_range"], keeps_eps=keeps_eps)
        if name == "LCMScheduler":
            made = Consistency(structured(made), self.schedule, fields["timestep_scaling"])
        return made

    def sample(
        self, denoise: DenoiseFn, x1: Array, key: Array, cond: PyTree = None, *, noise: ArrayLike | None = None
    ) -> Array:
        """x0 [batch, ...] from x1 [batch, ...], as `sampling.sample`.

        `noise` [n, batch, ...], standard normal, takes the place of what the steps would draw by `key`.
        """
        return sample(*self._given(denoise, x1, noise), x1, self.ts, key, cond)

    def trace(
        self, denoise: DenoiseFn, x1: Array, key: Array, cond: PyTree = None, *, noise: ArrayLike | None = None
    ) -> Trace:
        """`sample` with its whole path."""
        return trace(*self._given(denoise, x1, noise), x1, self.ts, key, cond)

    def _given(self, denoise: DenoiseFn, x1: Array, noise: ArrayLike | None) -> tuple[DenoiseFn, Schedule, Any]:
        solver = self.solver if noise is None else with_noise(self.solver, noise)
        return self.ready(denoise, jnp.promote_types(jnp.asarray(x1).dtype, jnp.float32)), self.schedule, solver


def _plan(scheduler: Scheduler, asked: Asked, course: Course) -> Plan:
    if asked.skipped and len(course.times) == asked.num_steps:
        cut = slice(asked.skipped, None)
        course = dataclasses.replace(
            course,
            times=course.times[cut],
            targets=course.targets[cut],
            seen=course.seen[cut],
            timesteps=course.timesteps[cut],
        )
    # The last time of the grid is where the last step goes, or 0 where it goes nowhere.
    end = course.targets[-1] if course.targets[-1] < course.times[-1] else 0.0
    ts = np.append(course.times, end)
    solver = course.solver
    if not np.array_equal(course.targets, ts[1:]) or len(course.between) or course.scale != 1:
        solver = Told(
            solver,
            tuple(ts[:-1].tolist()),
            tuple(course.targets.tolist()),
            tuple(course.between[:, 0].tolist()),
            course.scale,
        )
    scale = 1.0
    if course.largest is not None and scheduler.fields["timestep_spacing"] in ("linspace", "trailing"):
        scale = course.largest / float(np.sqrt(course.largest**2 + 1))
    seen = np.append(course.seen, 0.0)
    return Plan(scheduler, solver, ts, seen, course.between, course.timesteps, scale)


def read_scheduler(told: Mapping[str, Any], where: str) -> Scheduler:
    """The scheduler of a `scheduler_config.json`, as the mapping that it holds; `where` names the file in refusals.

    Every field of the class is honoured or refused; fields that other classes alone read change nothing, as in diffusers.
    Raises UserError in one line that names the field and the value, and for a class that is not known the nearest.
    """
    if not isinstance(told, Mapping):
        raise UserError(f"{where}: {told!r:.60} is no group of fields")
    if "_class_name" not in told:
        raise UserError(
            f"{where}: _class_name is missing: it says which scheduler this is (known: {', '.join(CLASSES)})"
        )
    name = one_of(f"{where}: _class_name", told["_class_name"], COURSES)
    fields = read(table(name), told, where)
    given, steps = fields.get("trained_betas"), fields["num_train_timesteps"]
    if given is not None and len(given) != steps:
        raise UserError(f"{where}: trained_betas has {len(given)} numbers for num_train_timesteps {steps}")
    if given is None and fields.get("beta_start", 0.0) > fields.get("beta_end", 1.0):
        raise UserError(f"{where}: beta_start {fields['beta_start']} is above beta_end {fields['beta_end']}")
    return Scheduler(name, fields, where)
