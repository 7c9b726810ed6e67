"""Latent diffusion in the experiments: an autoencoder measured by their reader, its latents on disk, what it all costs.

What comes back of a picture is compared with the very picture, pixel by pixel, and all of them with all the pictures by a
Frechet distance in the reader's features. Its floor is 0 here, of the same pictures: as many other real ones put it in
proportion, and so do the pictures blurred. It is what a perfect diffusion model over these latents would be left with.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from diffusion_jax.data.examples import to_unit
from diffusion_jax.files import write_atomic
from diffusion_jax.metrics import frechet_distance, psnr, ssim
from diffusion_jax.report.figures import image_grid
from diffusion_jax.report.numbers import number, percent
from diffusion_jax.report.page import Block, Table
from diffusion_jax.systems.diffusion.data import examples
from diffusion_jax.systems.diffusion.encode import encode
from diffusion_jax.systems.diffusion.latents import latents, moments
from diffusion_jax.systems.vae.run import VaeRun
from diffusion_jax.train.flops import flops
from diffusion_jax.train.step import make_train_step
from diffusion_jax.training import build_run
from diffusion_jax.typing import UserError

__all__ = ["PSNR", "cost_table", "costs", "encoded", "kept", "operations", "reconstruction_blocks", "there_and_back"]

PSNR = 24.0
"""What comes back of held-out pictures is aimed at this, in dB, or more."""
SHOWN, WORST = 6, 10
Say = Callable[[str], None]
Pictures = UInt8[np.ndarray, "n h w c"]


def there_and_back(
    run: VaeRun,
    features: Callable[[np.ndarray], np.ndarray],
    pictures: Pictures,
    others: Pictures,
    blurred: np.ndarray,
) -> tuple[dict[str, Any], Float[np.ndarray, "n h w c"], Float[np.ndarray, " n"]]:
    """(numbers, what comes back of `pictures` in [-1, 1], its PSNR): by the means of their latents, without chance.

    `l1` (of a range of 2), `psnr` in dB, its tenth percentile `psnr_low`, and `ssim`, the means over the pictures, and
    `frechet` to the very pictures; the same of the `blurred` ones, and the `frechet_real` of `others`, other real pictures.
    """
    given, made = np.asarray(to_unit(pictures)), run.reconstruct(pictures)
    soft, real = np.asarray(to_unit(blurred)), features(pictures)
    found: dict[str, Any] = {"weights": run.fingerprint, "pictures": len(pictures), "parameters": _count(run.params)}
    each = np.asarray(psnr(made, given))
    for ending, images in (("", made), ("_blurred", soft)):
        found |= {
            f"l1{ending}": float(np.abs(images - given).mean()),
            f"psnr{ending}": float(np.mean(psnr(images, given))),
            f"ssim{ending}": float(np.mean(ssim(images, given))),
            f"frechet{ending}": frechet_distance(features(images), real),
        }
    found["psnr_low"] = float(np.percentile(each, 10))
    found["frechet_real"] = frechet_distance(features(others), real)
    found["shape"] = list(run.autoencoder.latent_shape(*run.image[:2]))
    found["image"] = list(run.image)
    return found, made, each


def _count(tree: Any) -> int:
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))


def kept(
    folder: Path, key: str, made: Callable[[], tuple[dict[str, Any], dict[str, np.ndarray]]]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(numbers, arrays) from `folder` where they are of this key, else `made` and left there."""
    numbers, arrays = folder / "by_reader.json", folder / "by_reader.npz"
    if numbers.is_file() and arrays.is_file():
        found = json.loads(numbers.read_text())
        if found.get("key") == key:
            with np.load(arrays) as stored:
                return found, {name: stored[name] for name in stored.files}
    found, pictures = made()
    found = {"key": key, **found}
    folder.mkdir(parents=True, exist_ok=True)
    shown: dict[str, Any] = pictures
    np.savez_compressed(arrays, **shown)
    write_atomic(numbers, (json.dumps(found, indent=2) + "\n").encode())
    return found, pictures


def encoded(config: ConfigDict, folder: Path, say: Say) -> None:
    """The latents of the config's training pictures in `folder`, by the autoencoder of its space; reused where they are its."""
    data = examples(config, "train")
    image = tuple(np.shape(data[0]["image"]))
    made = latents(config.space.autoencoder, image, config, str(folder))
    assert made.table is not None
    try:
        made.table(data)
    except UserError:
        given = argparse.Namespace(
            autoencoder=config.space.autoencoder, out=str(folder), batch_size=64, shard_size=4096, dtype="float32",
            overwrite=True, no_progress=False,
        )  # fmt: skip
        encode(given, config, say)


def operations(config: ConfigDict) -> int:
    """Floating-point operations of all of a config's training steps, as `config check` counts them; nothing is trained."""
    with tempfile.TemporaryDirectory() as place:
        built = build_run(config, Path(place) / "run")
        state = built.shapes()
        step = make_train_step(built.loss_fn, built.tx, built.ema)
        return config.steps * flops(step, state, built.rehearse(state), built.key)


def costs(
    pixels: ConfigDict, config: ConfigDict, vae: ConfigDict, autoencoder: VaeRun, examples: int
) -> dict[str, int]:
    """Operations of training the model of `pixels` and that of latents (`config`), and what the latents add.

    {"pixels", "latents", "autoencoder": its training, "encoding": of so many examples, once, "decoding": of one picture}.
    """
    found = autoencoder.autoencoder
    shape = found.latent_shape(*autoencoder.image[:2])
    picture, latent = (jax.ShapeDtypeStruct((1, *size), np.float32) for size in (autoencoder.image, shape))
    return {
        "pixels": operations(pixels),
        "latents": operations(config),
        "autoencoder": operations(vae),
        "encoding": examples * flops(lambda params, x: moments(found, params, x), found.params, picture),
        "decoding": flops(lambda params, x: found.decode(x, params=params), found.params, latent),
    }


def reconstruction_blocks(
    found: Mapping[str, Any], groups: Sequence[tuple[str, np.ndarray, np.ndarray]], worst: tuple[np.ndarray, np.ndarray]
) -> tuple[Block, ...]:
    """What the page says of an autoencoder: numbers as `there_and_back` has them, pictures and what came back of them.

    `groups`: (name, pictures, what comes back), in [-1, 1], of three channels; `worst`: those that came back worst.
    """
    what = [("what comes back", ""), ("the pictures, blurred", "_blurred")]
    rows = [
        (name, *(f"{found[f'{key}{ending}']:{how}}" for key, how in (("psnr", ".1f"), ("ssim", ".3f"), ("l1", ".3f"))),
         percent(found[f"right{ending}"]) if "right" in found else "", number(found[f"frechet{ending}"]))
        for name, ending in what
    ]  # fmt: skip
    real = percent(found["right_real"]) if "right" in found else ""
    rows.append(("other real pictures", "", "", "", real, number(found["frechet_real"])))
    height, width, channels = found["image"]
    rows_, columns, depth = found["shape"]
    smaller = height * width * channels / (rows_ * columns * depth)
    return (
        f"An autoencoder of {found['parameters']:,} parameters makes of each picture, {height} × {width} × {channels}, "
        f"{rows_} × {columns} × {depth} numbers, {number(smaller)} times fewer, and pictures of these. The diffusion model "
        "sees and draws the numbers alone: what does not come back here it cannot draw.",
        Table(
            ("", "PSNR, dB", "SSIM", "L1", "read as it is", "Fréchet"), tuple(rows), numeric=frozenset({1, 2, 3, 4, 5}),
            caption=f"Of {found['pictures']:,} test pictures, none of them trained on; distances are to the very pictures. "
            f"L1 is of a range of 2. A tenth of the pictures comes back at less than {found['psnr_low']:.1f} dB.",
        ),
        image_grid(
            [[given, made] for _, given, made in groups],
            [name for name, *_ in groups], ["test pictures", "what comes back"], per_line=SHOWN, widest=48,
            alt=f"Test pictures of {len(groups)} kinds, and what comes back of each.",
            caption="The first of each, none of them chosen. The same place is the same picture.",
        ),
        image_grid(
            [[worst[0]], [worst[1]]], ["test pictures", "what comes back"], [""], per_line=WORST, widest=48,
            title="What comes back worst",
            alt=f"The {len(worst[0])} test pictures of the lowest PSNR, and what comes back of them.",
            caption="Those of the lowest PSNR of all that were measured.",
        ),
    )  # fmt: skip


def cost_table(cost: Mapping[str, int], seconds: Mapping[str, float]) -> Table:
    """The operations of every part of training, beside those of the pixel model's, and what decoding adds to a picture."""
    spent = {
        "latents": seconds.get("diffusion"),
        "autoencoder": seconds.get("autoencoder"),
        "encoding": seconds.get("encoding"),
    }
    names = {
        "pixels": "training in pixels, the model of the same config",
        "latents": "training in latents",
        "autoencoder": "training the autoencoder, once for every model after it",
        "encoding": "encoding the training pictures, once",
    }
    rows = [
        (name, f"{cost[key] / 1e12:.3g}", "" if spent.get(key) is None else f"{spent[key]:.0f}")
        for key, name in names.items()
    ]
    share = cost["latents"] / cost["pixels"]
    said = (
        "The two diffusion models take as many"
        if abs(share - 1) < 0.01
        else f"Latents took {number(share)} times those of pixels"
    )
    return Table(
        ("", "TFLOP", "seconds here"), tuple(rows), numeric=frozenset({1, 2}),
        caption=f"Products of matrices and convolutions, counted in the traced program. {said}; decoding a picture takes "
        f"{cost['decoding'] / 1e9:.2g} GFLOP more.",
    )  # fmt: skip
