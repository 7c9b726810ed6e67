"""`diffusion-jax unclip`: text to picture through a CLIP's embeddings, and what is done with pictures in its space."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.cli.applies import flag
from diffusion_jax.cli.notices import check_text, counted, in_short, say
from diffusion_jax.cli.options.unclip import OPTIONS
from diffusion_jax.files import check_file
from diffusion_jax.parallel.accelerator import configure
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.pipelines import UnCLIP, load_pipeline, load_unclip
from diffusion_jax.pipelines.components import components_of
from diffusion_jax.pipelines.unclip_runs import RunDecoder
from diffusion_jax.report.pictures import refuse_sheet, save_grid
from diffusion_jax.systems.diffusion.embedding_scale import spread_over
from diffusion_jax.typing import UserError

__all__ = ["unclip"]

NEEDED = {
    "generate": ("prompt",),
    "variations": ("image",),
    "interpolate": ("image",),
    "diff": ("image", "source", "target"),
    "components": ("image",),
}
ROW = {"generate": 4, "variations": 4, "interpolate": 8}
STEPS = 50
WIDEST = 384
"""Pixels of an edge to which small pictures are enlarged at most, where no --scale is given."""
THETAS = (0.0, 0.1, 0.2, 0.3, 0.4)
NOTED = (
    "action", "decoder", "pretrained", "prior", "prompt", "image", "source", "target", "theta", "count", "eta", "seed",
    "candidates", "num_steps", "guidance_scale",
)  # fmt: skip


def unclip(arguments: argparse.Namespace) -> int:
    """Draw one PNG: rows of prompts or pictures."""
    out = _check(arguments)
    configure(say)
    began = time.perf_counter()
    found = _pipeline(arguments)
    with enough_memory("lower --num-images, or give fewer at once"):
        rows = ACTIONS[arguments.action](found, arguments)
    count, columns = rows.shape[:2]
    if "scale" not in arguments.given:
        arguments.scale = max(1, min(arguments.scale, WIDEST // max(rows.shape[2:4])))
    note = {
        name: _noted(getattr(arguments, name))
        for name in NOTED
        if getattr(arguments, name) not in (None, []) and arguments.action in OPTIONS.get(name, (arguments.action,))
    }
    ink = isinstance(found.decoder, RunDecoder) and found.decoder.run.ink
    save_grid(out, rows.reshape(count * columns, *rows.shape[2:]), columns, arguments.scale, note, ink=ink)
    say(f"{counted(count * columns, 'picture')} in {time.perf_counter() - began:.1f} s: {out}")
    return 0


def _pipeline(arguments: argparse.Namespace) -> UnCLIP:
    """That of the runs, or of the folder. UserError for another folder."""
    if arguments.pretrained is None:
        return load_unclip(
            arguments.decoder, prior=arguments.prior, upsamplers=arguments.upsampler, which=arguments.weights
        )
    found = load_pipeline(arguments.pretrained)
    if not isinstance(found, UnCLIP):
        raise UserError(f"{arguments.pretrained!r} holds no unCLIP: diffusion-jax sample --pretrained draws from it")
    if arguments.action == "generate" and found.prior is None:
        raise UserError(
            f"{arguments.pretrained!r} has no prior, and draws from pictures: diffusion-jax unclip variations"
        )
    return found


def _noted(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _check(arguments: argparse.Namespace) -> Path:
    """--out. UserError for an option that the action does not take, one that it lacks, and one out of its range."""
    action = arguments.action
    for option, actions in OPTIONS.items():
        if option in arguments.given and action not in actions:
            raise UserError(
                f"{flag(option)} does not go with {action!r}, where it changes nothing: it is of {', '.join(actions)}"
            )
    for option in NEEDED[action]:
        if not getattr(arguments, option):
            raise UserError(f"{action!r} needs {flag(option)}")
    for path in arguments.image:
        refuse_sheet(path)
    for text in (*arguments.prompt, arguments.source, arguments.target):
        check_text("a text", text)
    if action == "interpolate" and len(arguments.image) != 2:
        raise UserError(
            f"'interpolate' goes from one --image to another: give --image twice, not {len(arguments.image)} times"
        )
    for option in ("candidates", "scale", "num_images", "num_steps", "prior_steps"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise UserError(f"{flag(option)} {value} is not at least 1")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed {arguments.seed} is not from 0 to {2**32 - 1}")
    for option in ("guidance_scale", "prior_guidance_scale", "eta"):
        value = getattr(arguments, option)
        if value is not None and not math.isfinite(value):
            raise UserError(f"{flag(option)} {value} is not finite")
    if arguments.pretrained is not None:
        for option in ("prior", "upsampler", "weights", "data"):
            if option in arguments.given:
                raise UserError(f"{flag(option)} does not go with --pretrained, whose folder has all parts")
        if action == "components":
            raise UserError("'components' needs the pictures that --decoder was trained on: a folder has none")
    elif arguments.prior is None:
        for option in ("candidates", "prior_steps", "prior_guidance_scale"):
            if option in arguments.given:
                raise UserError(f"{flag(option)} needs --prior, without which it changes nothing")
    if arguments.fresh and "refinements" in arguments.given:
        raise UserError("--refinements does not go with --fresh, where nothing is inverted")
    out = check_file(arguments.out)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {arguments.out!r} is not a .png file; did you mean {out.stem + '.png'!r}?")
    if out.exists() and not arguments.overwrite:
        raise UserError(f"{out} exists; choose another --out, or --overwrite to replace it")
    return out


def _decoder(found: UnCLIP) -> RunDecoder:
    assert isinstance(found.decoder, RunDecoder)
    return found.decoder


def _options(arguments: argparse.Namespace, *, pictures: bool) -> dict[str, Any]:
    """Of the decoder: of what begins with pictures 50 steps of DDIM without guidance, where nothing else is said."""
    said = {"num_steps": arguments.num_steps, "guidance_scale": arguments.guidance_scale}
    default = {"num_steps": STEPS, "guidance_scale": 1.0} if pictures else {}
    return default | {name: value for name, value in said.items() if value is not None}


def _inversion(arguments: argparse.Namespace) -> dict[str, Any]:
    return {**_options(arguments, pictures=True), "refinements": arguments.refinements}


def _pictures(found: UnCLIP, arguments: argparse.Namespace) -> np.ndarray:
    return found.decoder.pictures(list(arguments.image))


def _beside(pictures: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """[n, 1 + k, ...]: each picture before what is drawn by it [n, k, ...], enlarged where that is larger."""
    factor = drawn.shape[2] // pictures.shape[1]
    shown = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.concatenate([shown[:, None], drawn], axis=1)


def _generate(found: UnCLIP, arguments: argparse.Namespace) -> np.ndarray:
    count, decoder = arguments.num_images or ROW["generate"], found.decoder
    for line in in_short(decoder.notices(arguments.prompt)):
        say(line)
    if isinstance(decoder, RunDecoder) and not (arguments.untold or decoder.reads):
        say("the decoder is told embeddings alone: the prompt reaches it through them")
    said = {"num_steps": arguments.prior_steps, "guidance_scale": arguments.prior_guidance_scale}
    drawn = found.generate(
        [prompt for prompt in arguments.prompt for _ in range(count)],
        candidates=arguments.candidates,
        told=not arguments.untold,
        seed=arguments.seed,
        prior={name: value for name, value in said.items() if value is not None},
        options=_options(arguments, pictures=False),
    )
    return drawn.reshape(len(arguments.prompt), count, *drawn.shape[1:])


def _variations(found: UnCLIP, arguments: argparse.Namespace) -> np.ndarray:
    pictures = _pictures(found, arguments)
    drawn = found.variations(
        list(arguments.image),
        arguments.num_images or ROW["variations"],
        eta=arguments.eta,
        inverted=not arguments.fresh,
        seed=arguments.seed,
        options=_options(arguments, pictures=True),
        inversion=_inversion(arguments),
    )
    return _beside(pictures, drawn)


def _interpolate(found: UnCLIP, arguments: argparse.Namespace) -> np.ndarray:
    first, second = arguments.image
    return found.interpolate(
        first,
        second,
        arguments.num_images or ROW["interpolate"],
        even=arguments.even,
        fixed=arguments.fresh,
        seed=arguments.seed,
        options=_options(arguments, pictures=True),
        inversion=_inversion(arguments),
    )[None]


def _diff(found: UnCLIP, arguments: argparse.Namespace) -> np.ndarray:
    pictures = _pictures(found, arguments)
    drawn = found.text_diffs(
        list(arguments.image),
        arguments.source,
        arguments.target,
        arguments.theta or THETAS,
        seed=arguments.seed,
        options=_options(arguments, pictures=True),
        inversion=_inversion(arguments),
    )
    return _beside(pictures, drawn)


def _components(found: UnCLIP, arguments: argparse.Namespace) -> np.ndarray:
    decoder, pictures = _decoder(found), _pictures(found, arguments)
    data = spread_over(decoder.run.examples("train"))
    say(f"principal components of the embeddings of {counted(len(data), 'training picture')}")
    space = components_of(decoder.embed_all(data))
    size = len(space.mean)
    counts = arguments.count or [*(2**k for k in range(size.bit_length()) if 2**k < size), size]
    say("; ".join(f"{count}: {space.share(count):.1%} of the variance" for count in counts))
    drawn = found.components(pictures, space, counts, seed=arguments.seed, options=_options(arguments, pictures=True))
    return _beside(pictures, drawn)


ACTIONS: dict[str, Callable[[UnCLIP, argparse.Namespace], np.ndarray]] = {
    "generate": _generate,
    "variations": _variations,
    "interpolate": _interpolate,
    "diff": _diff,
    "components": _components,
}
