"""DiT (arXiv 2212.09748) from the folder or the file that people have: pictures of ImageNet's classes.

    pipeline = load_pipeline("DiT-XL-2-256")
    images = pipeline.generate(["golden retriever", 207], num_steps=50, seed=0)        # [2, 256, 256, 3] in [-1, 1]

    pipeline = load_pipeline("DiT-XL-2-256x256.pt", model="dit-xl-2-256", vae="sd-vae-ft-mse")     # Meta's file

A folder is drawn from as diffusers does: its own scheduler, and guidance of all channels. Meta's file is drawn from as its
authors do: DDPM with the variance that the network gives, at evenly spaced steps, and guidance of the first three of the
latent's four channels; the fourth and the variance are those of the class. `guidance={"channels": 3}` asks a folder for that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.build import guidance as guidances
from diffusion_jax.data.labels import label_of
from diffusion_jax.nets import Network
from diffusion_jax.pipelines.checks import check_guided, guiding, tile_of
from diffusion_jax.pipelines.drawing import decoded, drawn, plan_of
from diffusion_jax.pipelines.scheduler import Scheduler, read_scheduler
from diffusion_jax.systems.diffusion.loss import example_keys
from diffusion_jax.systems.diffusion.pretrained import Pretrained
from diffusion_jax.systems.vae.pretrained import Autoencoder
from diffusion_jax.typing import Array, Params, Solver, UserError, one_of, whole_number

__all__ = ["ClassToImage", "class_names_of", "class_to_image", "published_scheduler"]

OUTPUTS = ("image", "latent")
PUBLISHED = {
    "_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4,
    "beta_end": 0.02, "variance_type": "learned_range", "clip_sample": False, "timestep_spacing": "linspace",
}  # fmt: skip
"""The sampling of Meta's code, in diffusers' words."""
PUBLISHED_CHANNELS = 3

Label = str | int


@dataclasses.dataclass(frozen=True, eq=False)
class ClassToImage:
    """A published DiT with its autoencoder, ready to `generate`. Made by `load_pipeline`, or by `class_to_image`.

    `config` and `params` are of the network, which other weights may take the place of. `class_names` are the classes in the
    order of their numbers, each a name or several with commas between; the number after the last is that of none.
    `guided_channels` are how many of a latent's guidance acts on, None for all.
    """

    path: Path
    network: Network
    params: Params
    config: Mapping[str, Any]
    vae: Autoencoder
    scheduler: Scheduler
    class_names: tuple[str, ...]
    guided_channels: int | None = None

    @property
    def size(self) -> int:
        """The edge of a latent."""
        return int(self.config["image_size"])

    @property
    def learned_variance(self) -> bool:
        """Whether the network gives a variance beside eps."""
        return bool(self.config["out_channels"] == 2 * self.config["channels"])

    def label_ids(self, labels: Label | Sequence[Label]) -> np.ndarray:
        """The numbers of classes, int32 [n], of their names or numbers. UserError, with the nearest, for one there is not."""
        given = [labels] if isinstance(labels, str | int | np.integer) else list(labels)
        if not given:
            raise UserError("labels are empty: give the name or the number of a class")
        return np.array([label_of(self.class_names, label) for label in given], np.int32)

    def generate(
        self,
        labels: Label | Sequence[Label],
        *,
        negative: Label | Sequence[Label] | None = None,
        guidance_scale: float | None = None,
        guidance: Mapping[str, Any] | str | None = None,
        num_steps: int = 50,
        solver: str | Solver | None = None,
        grid: str | ArrayLike | None = None,
        eta: float | None = None,
        seed: int = 0,
        start: int = 0,
        noise: ArrayLike | None = None,
        output: str = "image",
        batch_size: int = 4,
        tile: int | None = None,
        say: Callable[[str], None] | None = None,
    ) -> np.ndarray:
        """A picture a label, float32 [n, height, width, 3] in [-1, 1], or with `output` "latent" its latent.

        A latent is [n, height / 8, width / 8, 4] in the folder's own scaling. `labels` are names or numbers; those of
        `negative`, one or one a label, take the place of no label. `guidance_scale` 1 and below is no guidance, None 4 (of
        CFG++ 0.6); `guidance` is another than the folder's, as "apg" or {"channels": 3, "interval": (0.3, 5)}
        (`build.guidance`). `solver` (a name, or one of this library, as DDPM("learned_range")) and `grid` (a name, or falling
        times) take the place of the folder's scheduler, of which `eta` is DDIM's. `noise` [n, height / 8, width / 8, 4] of unit
        variance takes the place of what `seed` draws, [1 + steps, n, ...] also that of each step's; picture i is a function of
        the seed and of `start` + i alone. `tile` decodes in tiles of so many pixels, a multiple of 32. `say` is given a line
        about what takes long.

        Raises UserError for a label that there is not, noise of another shape, and a solver that needs a variance where the
        network gives none.
        """
        ids = self.label_ids(labels)
        count = len(ids)
        one_of("output", output, OUTPUTS)
        tile_of(self.vae, tile)
        scale = guiding(guidance_scale, 4.0, guidance)
        if negative is not None:
            check_guided(guidance, scale)
        batch_size, seed = whole_number("batch_size", batch_size, 1), whole_number("seed", seed, 0, 2**32 - 1)
        none = np.full(count, len(self.class_names), np.int32)
        away = none if negative is None else self._negative(negative, count)
        keys = example_keys(seed, whole_number("start", start, 0, 2**31 - 1 - count), count)
        plan = plan_of(self.scheduler, whole_number("num_steps", num_steps, 1), solver=solver, grid=grid, eta=eta)
        if say is not None:
            edge = self.size * self.vae.factor
            say(f"drawing {count} of {edge} x {edge} in {len(plan.ts) - 1} steps; the first time compiles")
        latents = drawn(
            plan, self.apply, self.params, {"label": jnp.asarray(ids)}, {"label": jnp.asarray(away)}, keys,
            (self.size, self.size, self.vae.channels), guidance_scale=scale, guidance=self._guidance(guidance),
            noise=noise, batch_size=batch_size, learned_variance=self.learned_variance,
        )  # fmt: skip
        return np.asarray(latents) if output == "latent" else self.decode(latents, tile=tile)

    @property
    def apply(self) -> Callable[..., Array]:
        """The network as a function (params, xt, time, cond)."""
        return self.network.apply

    def decode(self, latents: ArrayLike, *, tile: int | None = None) -> np.ndarray:
        """Pictures float32 [n, height, width, 3] in [-1, 1] of latents in the folder's scaling, one after the other."""
        return decoded(self.vae, latents, tile)

    def _negative(self, negative: Label | Sequence[Label], count: int) -> np.ndarray:
        ids = self.label_ids(negative)
        if len(ids) not in (1, count):
            raise UserError(f"negative has {len(ids)} labels for {count}: give one, or one a label")
        return np.broadcast_to(ids, (count,))

    def _guidance(self, guidance: Mapping[str, Any] | str | None) -> dict[str, Any]:
        """The group, with the pipeline's own channels where it says nothing of them."""
        group = guidances.spec_of(guidance)
        own = group["name"] == "classifier_free" and self.guided_channels is not None and "channels" not in group
        return group | ({"channels": self.guided_channels} if own else {})


def published_scheduler() -> Scheduler:
    """DDPM as Meta's code runs it: 1000 betas from 1e-4 to 0.02, evenly spaced steps, the variance that the network gives."""
    return read_scheduler(PUBLISHED, "the sampling of DiT's authors")


def class_names_of(told: Any, count: int, where: str) -> tuple[str, ...]:
    """The names of `count` classes by their numbers, as an `id2label` {"0": "tench, Tinca tinca"} tells them; where it tells
    none, the number. UserError for what is no such group, and for the number of no class."""
    names = {str(number): str(number) for number in range(count)}
    if not isinstance(told, Mapping):
        raise UserError(f"{where}: id2label {told!r:.60} is no group of names by their numbers")
    for number, name in told.items():
        if str(number) not in names or not isinstance(name, str) or not name.strip():
            raise UserError(f"{where}: id2label {number!r}: {name!r:.60} is no name of one of the {count} classes")
        names[str(number)] = name
    return tuple(names.values())


def class_to_image(
    found: Pretrained,
    vae: Autoencoder,
    scheduler: Scheduler | None = None,
    *,
    names: Mapping[Any, str] | None = None,
    guided_channels: int | None = PUBLISHED_CHANNELS,
    where: str | None = None,
) -> ClassToImage:
    """The pipeline of a DiT (`load_pretrained`) and an autoencoder, by default sampled as its authors do.

    `names` are those of the classes by their numbers, `where` what is named in refusals. Raises UserError for another network,
    for one of other latents than the autoencoder's, and for a scheduler that does not predict as the network does.
    """
    place, config = where or repr(str(found.path)), found.config
    if found.kind != "DiT":
        raise UserError(f"{place} is a {found.kind}, and classes are drawn by a DiT")
    channels, drawn_channels = config["channels"], config["out_channels"]
    if vae.channels != channels:
        raise UserError(
            f"{place}: the DiT takes {channels} channels, and the autoencoder's latents have {vae.channels}: "
            "parts of two models"
        )
    if drawn_channels not in (channels, 2 * channels):
        raise UserError(
            f"{place}: the DiT gives {drawn_channels} channels; read are {channels}, and {2 * channels} with a variance"
        )
    made = published_scheduler() if scheduler is None else scheduler
    if made.learned_variance and drawn_channels == channels:
        raise UserError(
            f"{made.where}: variance_type {made.fields['variance_type']!r} needs a DiT that gives a variance, and this one "
            "gives none; nearest: 'fixed_small'"
        )
    return ClassToImage(
        found.path, found.network, found.params, config, vae, made,
        class_names_of(names or {}, config["classes"] - 1, place), guided_channels,
    )  # fmt: skip
