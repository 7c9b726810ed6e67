"""A run that was trained, ready to be used: `load_run("runs/digits")`.

A run is a folder with `config.json` and `checkpoints/`. A diffusion run also has `text_encoder.json`: where its
frozen CLIP run lies, relative to it, and a fingerprint of the weights that it was trained on, so that the two move
together and a text encoder that was retrained since is noticed. A folder that holds runs (`runs/digits` with `clip/`
and `diffusion/`) stands for its diffusion run, or else for its CLIP run.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.build import guidance as steering
from diffusion_jax.nets import Network
from diffusion_jax.parallel.mesh import make_mesh, put_batch, replicated
from diffusion_jax.process import denoiser
from diffusion_jax.sampling import AdaptiveODE
from diffusion_jax.sampling.natural import doubt
from diffusion_jax.systems.clip.run import ClipRun, clip_parts
from diffusion_jax.systems.diffusion.loss import example_keys, generate
from diffusion_jax.train.checkpoint import restore_params
from diffusion_jax.typing import (
    Array,
    DenoiseFn,
    Params,
    PyTree,
    Schedule,
    Solver,
    UserError,
    path_of,
    texts_of,
    whole_number,
)

__all__ = [
    "ClipRun",
    "DiffusionRun",
    "clip_parts",
    "fingerprint",
    "load_clip",
    "load_diffusion",
    "load_run",
    "read_config",
    "read_text_encoder",
]

MOST_STEPS = 100_000  # of sampling: a grid of more fills the memory, and is a slip of the hand
CONFIG, CHECKPOINTS, TEXT_ENCODER, VOCABULARY = "config.json", "checkpoints", "text_encoder.json", "vocabulary"


@dataclasses.dataclass(frozen=True, eq=False)
class DiffusionRun:
    """A trained diffusion model: its denoiser (averaged weights), schedule, text encoder and config, ready for `sample`.

    `denoise(xt, t, cond)` takes images [batch, *shape] in [-1, 1] noised to time t, and a condition that
    `encode_text` makes.
    """

    path: Path
    config: ConfigDict
    network: Network
    params: Params
    schedule: Schedule
    clip: ClipRun
    shape: tuple[int, int, int]

    @functools.cached_property
    def denoise(self) -> DenoiseFn:
        """The network with its weights as a DenoiseFn."""
        return self.denoiser(self.params)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the weights of the denoiser and of its text encoder."""
        return fingerprint((self.params, self.clip.params))

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
        """The condition of each prompt, or of one, leading axis n. UserError for none, and for what is no text."""
        return self.clip.condition(texts_of("prompts", prompts))

    @functools.cached_property
    def null(self) -> dict[str, np.ndarray]:
        """The condition of the empty prompt, leading axis 1: what training put in place of dropped captions."""
        return self.encode_text([""])

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
        scale = _scale(default.guidance_scale if guidance_scale is None else guidance_scale)
        steps = whole_number("num_steps", default.num_steps if num_steps is None else num_steps, 1)
        if steps > MOST_STEPS:
            raise UserError(f"num_steps {steps} is more than {MOST_STEPS}; usual are 10 to 1000")
        options = solver_options or {}
        for key, value in options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{key} {value} of the solver is not a finite number")
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
        negative: str | Sequence[str] | None = None,
        guidance: Mapping[str, Any] | str | None = None,
        denoise: DenoiseFn | None = None,
    ) -> DenoiseFn:
        """The denoiser under guidance, for `sample`, `sampling.edit` and the like; what is None is the config's.

        `guidance` is a name or a group of `steering`: {"name": "apg", "eta": 0.2, "interval": (0.3, 5)}. Scale and
        negative prompt are one, or one an image of the batch. Raises UserError for an unknown name or option, for a
        negative scale without a negative prompt, and for a negative prompt that is not text.
        """
        scale = _scale(self.config.sampler.guidance_scale if guidance_scale is None else guidance_scale)
        return steering.guided(
            self.config.sampler.get("guidance") if guidance is None else guidance,
            denoise or self.denoise,
            self.null,
            scale,
            None if negative is None else self.encode_text(texts_of("negative", negative)),
            schedule=self.schedule,
            prediction="x0" if self.config.prediction == "edm" else self.config.prediction,
        )

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        negative: str | Sequence[str] | None = None,
        guidance_scale: ArrayLike | Sequence[float] | None = None,
        guidance: Mapping[str, Any] | str | None = None,
        solver: str | None = None,
        num_steps: int | None = None,
        grid: str | None = None,
        solver_options: dict[str, Any] | None = None,
        seed: int = 0,
        start: int = 0,
        batch_size: int = 256,
        denoise: DenoiseFn | None = None,
    ) -> np.ndarray:
        """One image a prompt, [n, height, width, channels] in [-1, 1]; what is None is the config's. A text alone is one.

        Image i is a function of the seed and of `start` + i, whatever the batch size and the number of devices. A
        negative prompt takes the unconditional prediction's place; it and the scale are one, or one a prompt; `guidance`
        as in `guided`. Raises UserError for an unknown solver, grid or guidance, for CFG++ with a solver of higher
        order, for another number of scales or negative prompts than of prompts, for no prompt or what is no text, and
        for a seed, start or batch size that is no whole number in its range.
        """
        prompts = texts_of("prompts", prompts)
        batch_size, seed = whole_number("batch_size", batch_size, 1), whole_number("seed", seed, 0, 2**32 - 1)
        start = whole_number("start", start, 0, 2**31 - 1 - len(prompts))
        guidance_scale = None if guidance_scale is None else _scale(guidance_scale)
        chosen, ts, scale = self.sampler(
            solver=solver, num_steps=num_steps, grid=grid, guidance_scale=guidance_scale, solver_options=solver_options
        )
        steering.check_solver(guidance or self.config.sampler.get("guidance"), solver or self.config.sampler.solver)
        leave = None if negative is None else texts_of("negative", negative)
        for name, given in (("guidance_scale", np.atleast_1d(scale)), ("negative", leave or [""])):
            if len(given) not in (1, len(prompts)):
                raise UserError(
                    f"{name} has {len(given)} entries for {len(prompts)} prompts: give one, or one a prompt"
                )
        mesh = make_mesh(devices=jax.local_devices())
        size = -(-min(batch_size, len(prompts)) // mesh.size) * mesh.size
        model = jax.device_put(denoise or self.denoise, replicated(mesh))
        unique = list(dict.fromkeys(prompts))
        rows = np.array([unique.index(p) for p in prompts]) if len(unique) > 1 else np.zeros(len(prompts), int)
        table = self.encode_text(unique)

        def one(part: slice) -> np.ndarray:
            count = len(rows[part])
            places = np.minimum(np.arange(part.start, part.start + size), part.stop - 1)
            cond = put_batch(jax.tree.map(lambda leaf: leaf[rows[places]], table), mesh)
            guided = self.guided(
                guidance_scale=scale if np.size(scale) == 1 else scale[places],
                negative=leave if leave is None or len(leave) == 1 else [leave[place] for place in places],
                guidance=guidance,
                denoise=model,
            )
            keys: Array = put_batch({"keys": example_keys(seed, start + part.start, size)}, mesh)["keys"]
            images = np.asarray(generate(guided, self.schedule, chosen, ts, keys, self.shape, cond))[:count]
            lost = chosen.explain(images) if isinstance(chosen, AdaptiveODE) else None
            if lost is not None:
                raise UserError(lost)
            return images

        starts = range(0, len(prompts), size)
        return np.concatenate([one(slice(begin, min(begin + size, len(prompts)))) for begin in starts])


def _scale(given: Any) -> Any:
    """A guidance scale as a float, or one an image as float32 [n]. UserError for what is no finite number."""
    if isinstance(given, jax.core.Tracer):
        return given
    try:
        scale = np.asarray(given)
    except ValueError:  # a list of lists of several lengths
        scale = np.asarray(None)
    if scale.dtype.kind not in "iuf" or scale.ndim > 1 or not scale.size:
        raise UserError(f"guidance scale {given!r} is not a number, or one an image")
    if not np.isfinite(scale).all():
        raise UserError(f"guidance scale {scale} is not finite; 1 is no guidance, usual are 1 to 8")
    return float(scale) if scale.ndim == 0 else scale.astype(np.float32)


def fingerprint(params: PyTree) -> str:
    """A digest of every array's path, shape and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(np.asarray(leaf))
        digest.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def read_config(path: str | Path) -> ConfigDict:
    """The resolved config of the run in `path`. UserError when there is none, naming the nearest run."""
    file = Path(path) / CONFIG
    if not file.is_file():
        raise UserError(f"there is no run in {_place(Path(path))}: {CONFIG} is missing{_nearest_run(Path(path))}")
    return ConfigDict(read_json(file))


def _place(path: Path) -> str:
    """The path as given, and from where it is meant when it is relative."""
    return repr(str(path)) if path.is_absolute() else f"{str(path)!r} (from {Path.cwd()})"


def read_text_encoder(path: Path) -> dict[str, str]:
    """{"run", "fingerprint"} of the text encoder that the diffusion run in `path` was trained on."""
    file = path / TEXT_ENCODER
    if not file.is_file():
        raise UserError(f"{file} is missing: the run does not say which text encoder it was trained on")
    note = read_json(file)
    if not {"run", "fingerprint"} <= note.keys():
        raise UserError(f"{file} lacks 'run' or 'fingerprint': it was not written by `diffusion-jax train`")
    return note


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file. UserError where there is none."""
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} holds no JSON object")
    return value


def load_run(path: str | Path, *, which: str = "ema", step: int | None = None) -> ClipRun | DiffusionRun:
    """The run in the folder `path`, or in its `diffusion` or `clip` subfolder. `which` weights: "ema" or "params" (raw)."""
    path = _run_folder(path)
    for folder in (path, path / "diffusion", path / "clip"):
        if (folder / CONFIG).is_file():
            system = read_config(folder).get("system")
            if system == "clip":
                return load_clip(folder, which=which, step=step)
            return load_diffusion(folder, which=which, step=step)
    raise UserError(f"there is no run in {_place(path)}{_nearest_run(path)}")


def load_clip(path: str | Path, *, which: str = "ema", step: int | None = None) -> ClipRun:
    """The CLIP run in `path`, which is the run's folder or one that holds it as `clip`."""
    path = _run_folder(path)
    if not (path / CONFIG).is_file() and (path / "clip" / CONFIG).is_file():
        path = path / "clip"
    config = read_config(path)
    _system(path, config, "clip")
    if (path / VOCABULARY).is_dir():  # the run's own copy: it may have been moved, or be read from another folder
        copy = path / VOCABULARY / Path(config.tokenizer.path).name
        config.tokenizer.path = str(copy if copy.is_file() else copy.parent)
    network, tokenizer, preprocess = clip_parts(config)
    return ClipRun(path, config, network, restore_params(path / CHECKPOINTS, which, step), tokenizer, preprocess)


def load_diffusion(path: str | Path, *, which: str = "ema", step: int | None = None) -> DiffusionRun:
    """The diffusion run in `path` with the CLIP run that it was trained on."""
    path = _run_folder(path)
    config = read_config(path)
    _system(path, config, "diffusion")
    note = read_text_encoder(path)
    encoder = Path(os.path.normpath(path / note["run"]))
    if not _is_run(encoder):
        raise UserError(
            f"there is no text encoder in {os.path.abspath(encoder)!r}, where {TEXT_ENCODER} of the diffusion run "
            f"{str(path)!r} says that it lies{_nearest_run(encoder)}"
        )
    clip = load_clip(encoder)
    if fingerprint(clip.params) != note["fingerprint"]:
        raise UserError(f"the text encoder in {clip.path} was trained again after {path}: train the diffusion run anew")
    shape = build.source(config.data, "train")[0]["image"].shape
    network = diffusion_network(config, clip, shape)
    params = restore_params(path / CHECKPOINTS, which, step)
    return DiffusionRun(path, config, network, params, build.schedule(config.schedule), clip, shape)


def _run_folder(path: Any) -> Path:
    """The path of a run. UserError for what is no path, and for a folder of published weights."""
    path = path_of("path", path)
    file = path / CONFIG
    config = read_json(file) if file.is_file() else {}
    published = config.keys() & {"model_type", "architectures"} or (path / "open_clip_config.json").is_file()
    if published and "system" not in config:
        raise UserError(f"{str(path)!r} holds published weights, not a run: load_pretrained reads them")
    return path


def diffusion_network(config: ConfigDict, clip: ClipRun, shape: tuple[int, ...]) -> Network:
    """The network of a diffusion config for images of `shape` and this text encoder."""
    return build.dit_network(
        config.model,
        image_size=shape[0],
        channels=shape[2],
        pooled=clip.config.model.embed,
        context=clip.config.model.text.width,
    )


def _system(path: Path, config: ConfigDict, wanted: str) -> None:
    if config.get("system") != wanted:
        raise UserError(f"the run in {str(path)!r} is of system {config.get('system')!r}, not {wanted!r}")


def _nearest_run(path: Path) -> str:
    parent = path.parent if path.parent.is_dir() else Path("runs")
    names = [str(p) for p in sorted(parent.iterdir()) if p.is_dir() and _is_run(p)] if parent.is_dir() else []
    near = difflib.get_close_matches(str(path), names, n=1, cutoff=0.3)
    return f"; did you mean {near[0]!r}?" if near else ""


def _is_run(path: Path) -> bool:
    return any((folder / CONFIG).is_file() for folder in (path, path / "diffusion", path / "clip"))
