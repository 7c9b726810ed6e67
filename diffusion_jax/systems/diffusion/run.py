"""A diffusion model that was trained, ready to be sampled: `DiffusionRun`."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from diffusion_jax import build, runs
from diffusion_jax.build import guidance as guidances
from diffusion_jax.data.examples import to_unit
from diffusion_jax.nets import Network
from diffusion_jax.parallel.mesh import batch_devices, make_mesh, put_batch, replicated
from diffusion_jax.process import denoiser
from diffusion_jax.sampling import AdaptiveODE
from diffusion_jax.sampling.given import with_noise
from diffusion_jax.sampling.natural import doubt
from diffusion_jax.systems.clip.run import ClipRun
from diffusion_jax.systems.diffusion.asked import distinct, finite_of, noise_of, scale_of
from diffusion_jax.systems.diffusion.conditions import Condition, asks_of, told_of
from diffusion_jax.systems.diffusion.data import examples, examples_of_run
from diffusion_jax.systems.diffusion.loss import example_keys, generate
from diffusion_jax.systems.diffusion.spaces import Space, space
from diffusion_jax.train.checkpoint import restore_params
from diffusion_jax.typing import (
    Array,
    DenoiseFn,
    Params,
    PyTree,
    Schedule,
    Solver,
    Source,
    UserError,
    texts_of,
    whole_number,
)

__all__ = ["DiffusionRun", "load_diffusion", "load_run_of", "unloaded", "upgrade"]

MOST_STEPS = 100_000  # of sampling: a grid of more fills the memory, and is a slip of the hand


@dataclasses.dataclass(frozen=True, eq=False)
class DiffusionRun:
    """A trained diffusion model: its denoiser (averaged weights), schedule, space, condition and config, ready for `sample`.
    `image` is the shape of one of the data's images.

    `denoise(xt, t, cond)` takes x0 [batch, *shape] of the space noised to time t, and a condition as `condition.request`
    makes it (of texts: `encode_text`).
    """

    path: Path
    config: ConfigDict
    network: Network
    params: Params
    schedule: Schedule
    condition: Condition
    space: Space
    image: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one x0."""
        return self.space.shape

    @property
    def asks(self) -> tuple[str, ...]:
        """What a request is made of, ("prompt",); () for a model that draws unasked."""
        return asks_of(self.condition)

    @property
    def ink(self) -> bool:
        """Whether grey is ink on paper, as of data that are arrays; pictures of files are shown as they are."""
        return not build.gives_pictures(self.config.data)

    def examples(self, split: str) -> Source:
        """The data that it was trained on, prepared as for training: "train", "validation" or "test". UserError for none."""
        return examples_of_run(self.path, self.config, split, self.image)

    def told(self, data: Source, images: Any, key: Array | None = None) -> PyTree:
        """The condition of examples and of their images [n, h, w, c], uint8 or in [-1, 1]; the same chance without a `key`."""
        cond = self.condition.held_out(data)
        key = jax.random.key(0) if key is None else key
        made = self.condition.made(self.condition.frozen, to_unit(images), key)
        return {**(cond or {}), **made} if made else cond

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that may be asked for, in the order of their numbers; () of a run that is told none."""
        return tuple(getattr(self.condition, "classes", ()))

    @property
    def clip(self) -> ClipRun:
        """The CLIP run whose text tower conditions the model. UserError where none does."""
        found = getattr(self.condition, "clip", None)
        if found is None:
            raise UserError(f"the run in {str(self.path)!r} is not conditioned on texts: it has no CLIP run")
        return found

    @functools.cached_property
    def denoise(self) -> DenoiseFn:
        """The network with its weights as a DenoiseFn."""
        return self.denoiser(self.params)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the weights of the denoiser and of what conditions it."""
        return runs.fingerprint((self.params, self.condition.params))

    def denoiser(self, params: Params) -> DenoiseFn:
        """The same network with other weights, such as the raw ones."""
        config = self.config
        return denoiser(
            self.network.apply, params, self.schedule, config.prediction, config.time, sigma_data=self.sigma_data
        )

    @property
    def sigma_data(self) -> float:
        """The standard deviation of the data that prediction "edm" takes, the config's `sigma_data` or 0.5."""
        return self.config.get("sigma_data", 0.5)

    def encode_text(self, prompts: str | Sequence[str]) -> dict[str, np.ndarray]:
        """The condition of each prompt, or of one, leading axis n, all else that the run is told its null.

        UserError for none, for what is no text, and for a run that reads none.
        """
        texts = texts_of("prompts", prompts)
        if self.asks == ("prompt",):
            return self.condition.request(texts)
        return (
            self.condition.request([{"prompt": text} for text in texts])
            if "prompt" in self.asks
            else self.clip.condition(texts)
        )

    @functools.cached_property
    def null(self) -> PyTree:
        """The null condition, leading axis 1: what training put in place of dropped ones; None where nothing is told."""
        return self.condition.null

    def sampler(
        self,
        *,
        solver: str | None = None,
        num_steps: int | None = None,
        grid: str | None = None,
        guidance_scale: ArrayLike | Sequence[float] | None = None,
        solver_options: dict[str, Any] | None = None,
    ) -> tuple[Solver, np.ndarray, Any]:
        """(solver, times [num_steps + 1], guidance scale) of these names; what is None is the config's.

        Raises UserError for an unknown solver, option or grid, for num_steps that are not from 1 to 100,000, and for a
        scale or option that is not finite. Warns of a grid that cannot be right under the schedule (`sampling.natural`).
        """
        default = self.config.sampler
        scale = scale_of(default.guidance_scale if guidance_scale is None else guidance_scale)
        steps = whole_number("num_steps", default.num_steps if num_steps is None else num_steps, 1)
        if steps > MOST_STEPS:
            raise UserError(f"num_steps {steps} is more than {MOST_STEPS}; usual are 10 to 1000")
        options = finite_of(solver_options or {})
        chosen, name = build.solver(solver or default.solver, **options), self.grid_name(grid, steps)
        ts = build.grid(name, steps, self.schedule)
        # An adaptive solver finds its own steps.
        if name != self.grid_name("natural", steps) and not isinstance(chosen, AdaptiveODE):
            line = doubt(ts, self.schedule, self.sigma_data)
            if line is not None:
                warnings.warn(f"grid {name!r}: {line}")  # noqa: B028 - said once, whoever calls
        return chosen, ts, scale

    def grid_name(self, grid: str | None = None, num_steps: int = 20) -> str:
        """The name of a grid, or of the config's; "natural", also where a config names none, is that of the schedule."""
        return build.grid_name(grid or self.config.sampler.get("grid", "natural"), num_steps, self.schedule)

    def guided(
        self,
        *,
        guidance_scale: ArrayLike | Sequence[float] | None = None,
        negative: Any = None,
        guidance: Mapping[str, Any] | str | None = None,
        denoise: DenoiseFn | None = None,
    ) -> DenoiseFn:
        """The denoiser under guidance, for `sample`, `sampling.img2img` and the like; what is None is the config's.

        `guidance` is a name or a group of `build.guidance`: {"name": "apg", "eta": 0.2, "interval": (0.3, 5)}. Scale and
        negative prompt are one, or one an image of the batch. Raises UserError for an unknown name or option, for a
        negative scale without a negative prompt, and for a negative prompt that is not text.
        """
        scale = scale_of(self.config.sampler.guidance_scale if guidance_scale is None else guidance_scale)
        if not self.condition.guides:
            off = not isinstance(scale, jax.core.Tracer) and np.all(scale == 1)
            if negative is not None or guidance is not None or not off:
                raise UserError(
                    f"the run in {str(self.path)!r} is told nothing, so that there is nothing to guide by: give "
                    "guidance scale 1, no guidance and no negative"
                )
            return denoise or self.denoise
        rule = self.config.sampler.get("guidance") if guidance is None else guidance
        if np.ndim(scale) == 0:  # of one an image `generate` looks at all
            guidances.check_negative(rule, scale, negative)
        return guidances.guided(
            rule,
            denoise or self.denoise,
            self.null,
            scale,
            None if negative is None else self.condition.request(self.condition.listed("negative", negative)),
            schedule=self.schedule,
            prediction="x0" if self.config.prediction == "edm" else self.config.prediction,
        )

    def notices(self, requests: Sequence[Any]) -> list[str]:
        """What is to be said of requests before they are drawn. UserError for pictures that nobody can be asked by."""
        if not {"prompt", "label"}.issuperset(self.asks):
            for start in range(0, len(requests), 64):
                self.condition.request(requests[start : start + 64])
        return self.condition.notices(requests)

    def settings(
        self,
        *,
        negative: Any = None,
        guidance_scale: float | None = None,
        guidance: Mapping[str, Any] | str | None = None,
        solver: str | None = None,
        num_steps: int | None = None,
        grid: str | None = None,
        solver_options: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Those of `generate`, with the config's in place of what is None. UserError for what does not go together."""
        default = self.config.sampler
        steps = default.num_steps if num_steps is None else num_steps
        found: dict[str, Any] = {
            "guidance_scale": default.guidance_scale if guidance_scale is None else guidance_scale,
            "solver": solver or default.solver,
            "grid": self.grid_name(grid, steps),
            "num_steps": steps,
            "solver_options": solver_options or {},
        }
        self.sampler(**found)
        self.guided(guidance_scale=found["guidance_scale"], negative=negative, guidance=guidance)
        if self.condition.guides:
            guidances.check_solver(guidance or default.get("guidance"), found["solver"])
        found = {"negative": negative, **found}
        return found | ({} if guidance is None else {"guidance": guidance})

    def _requests(self, prompts: Any, count: int | None) -> list[Any]:
        """A request an image."""
        if not self.asks:
            if prompts is not None:
                raise UserError(f"the run in {str(self.path)!r} draws unasked: give count, not prompts")
            return [None] * whole_number("count", 1 if count is None else count, 1)
        what = "prompts" if self.asks == ("prompt",) else f"requests ({', '.join(self.asks)})"
        asked = self.condition.listed(what, prompts)
        if count is not None and len(asked) == 1:
            asked *= whole_number("count", count, 1)
        if count is not None and len(asked) != count:
            raise UserError(f"count {count} for {len(asked)} prompts: give one of the two")
        return asked

    def generate(
        self,
        prompts: Any = None,
        *,
        count: int | None = None,
        negative: Any = None,
        guidance_scale: ArrayLike | Sequence[float] | None = None,
        guidance: Mapping[str, Any] | str | None = None,
        solver: str | None = None,
        num_steps: int | None = None,
        grid: str | None = None,
        solver_options: dict[str, Any] | None = None,
        seed: int = 0,
        start: int = 0,
        noise: ArrayLike | None = None,
        batch_size: int = 256,
        denoise: DenoiseFn | None = None,
    ) -> np.ndarray:
        """One image a prompt, [n, height, width, channels]; what is None is the config's. A text alone is one.

        They are in [-1, 1] but for what the network or an autoencoder goes beyond: files and measures of them are clipped.

        A prompt is whatever the run's condition is asked by; one that draws unasked is given how many as `count`.

        Image i is a function of the seed and of `start` + i, whatever the batch size and the number of devices. A
        negative prompt takes the unconditional prediction's place; it and the scale are one, or one a prompt; `guidance`
        as in `guided`. `noise` [n, *shape] of unit variance takes the place of what the seed draws, [1 + steps, n, *shape]
        also that of each step's. Raises UserError for noise of another shape, for an unknown solver, grid or guidance, for
        CFG++ with a solver of higher order, for another number of scales or negative prompts than of prompts, for no prompt
        or what is no text, and for a seed, start or batch size that is no whole number in its range.
        """
        prompts = self._requests(prompts, count)
        batch_size, seed = whole_number("batch_size", batch_size, 1), whole_number("seed", seed, 0, 2**32 - 1)
        start = whole_number("start", start, 0, 2**31 - 1 - len(prompts))
        guidance_scale = None if guidance_scale is None else scale_of(guidance_scale)
        chosen, ts, scale = self.sampler(
            solver=solver, num_steps=num_steps, grid=grid, guidance_scale=guidance_scale, solver_options=solver_options
        )
        rule = guidance or self.config.sampler.get("guidance")
        guidances.check_solver(rule, solver or self.config.sampler.solver)
        guidances.check_negative(rule, scale, negative)
        leave = None if negative is None else self.condition.listed("negative", negative)
        for name, given in (("guidance_scale", np.atleast_1d(scale)), ("negative", leave or [""])):
            if len(given) not in (1, len(prompts)):
                raise UserError(
                    f"{name} has {len(given)} entries for {len(prompts)} prompts: give one, or one a prompt"
                )
        first, drawn = noise_of(noise, (len(prompts), *self.shape), len(ts) - 1)
        mesh = make_mesh(devices=jax.local_devices())
        size = -(-min(batch_size, len(prompts)) // batch_devices(mesh)) * batch_devices(mesh)
        model = jax.device_put(denoise or self.denoise, replicated(mesh))
        unique, rows = distinct(prompts)
        table = self.condition.request(unique)

        def one(part: slice) -> np.ndarray:
            real = len(rows[part])
            places = np.minimum(np.arange(part.start, part.start + size), part.stop - 1)
            cond = None if table is None else put_batch(jax.tree.map(lambda leaf: leaf[rows[places]], table), mesh)
            keys: Array = put_batch({"keys": example_keys(seed, start + part.start, size)}, mesh)["keys"]
            cond = cond if cond is None else self.condition.drawn(cond, keys)
            guided = self.guided(
                guidance_scale=scale if np.size(scale) == 1 else scale[places],
                negative=leave if leave is None or len(leave) == 1 else [leave[place] for place in places],
                guidance=guidance,
                denoise=model,
            )
            x1 = None if first is None else put_batch({"noise": first[places]}, mesh)["noise"]
            solver = chosen if drawn is None else with_noise(chosen, drawn[:, places])
            x0 = generate(guided, self.schedule, solver, ts, keys, self.shape, cond, noise=x1)
            lost = chosen.explain(np.asarray(x0)[:real]) if isinstance(chosen, AdaptiveODE) else None
            if lost is not None:
                raise UserError(lost)
            return np.asarray(self.space.decode(self.space.frozen, x0))[:real]

        starts = range(0, len(prompts), size)
        return np.concatenate([one(slice(begin, min(begin + size, len(prompts)))) for begin in starts])


def unloaded(
    config: ConfigDict, folder: Path, image: tuple[int, ...], told: Condition, *, begun: bool = False
) -> DiffusionRun:
    """The run of a config without weights, for images of this shape; with `begun` one that lies in its folder."""
    within = space(config.get("space"), image, folder if begun else None, config)
    network = build.diffusion_network(config.model, within.shape, told.entries, told.counts)
    return DiffusionRun(folder, config, network, {}, build.schedule(config.schedule), told, within, image)


def upgrade(config: ConfigDict, version: int) -> ConfigDict:
    """The config of an older run as one of today: format 1 had `text_encoder`, and `drop` in the group `loss`."""
    if version == 1 and "text_encoder" in config:
        found: dict[str, Any] = config.to_dict()
        drop = found["loss"].pop("drop", 0.1)
        found["condition"] = {"name": "text", "encoder": found.pop("text_encoder"), "drop": drop}
        return ConfigDict(found)
    return config


def load_diffusion(path: str | Path, *, which: str = "ema", step: int | None = None) -> DiffusionRun:
    """The diffusion run in the folder `path`, with what it is conditioned on. UserError where there is none."""
    folder = runs.run_folder(path)
    config, version = runs.read_run(folder)
    if config.get("system") != "diffusion":
        raise UserError(f"the run in {str(folder)!r} is of system {config.get('system')!r}, not 'diffusion'")
    runs.remember_parts(folder)
    return load_run_of(folder, upgrade(config, version), which, step)


def load_run_of(path: Path, config: ConfigDict, which: str, step: int | None) -> DiffusionRun:
    """The diffusion run in `path`, of this config, with what it is conditioned on."""
    told = told_of(config, path)
    run = unloaded(config, path, _image(path, config), told, begun=True)
    return dataclasses.replace(run, params=restore_params(path / runs.CHECKPOINTS, which, step))


def _image(path: Path, config: ConfigDict) -> tuple[int, ...]:
    """The shape of the data's images: as the run noted it, or, of an older run, as the data are."""
    file = path / runs.EXAMPLE
    return tuple(runs.read_json(file)["image"] if file.is_file() else np.shape(examples(config, "train")[0]["image"]))
