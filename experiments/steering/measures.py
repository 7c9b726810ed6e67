"""What is measured of guidance and editing: the parts of the study, functions of the bench that fill numbers and pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.data.sources import digits
from diffusion_jax.data.sources.digits import CLASS_NAMES, PROMPTS, with_article
from diffusion_jax.metrics import mean_pairwise_distance
from diffusion_jax.sampling import (
    DDIM,
    DDPM,
    DPS,
    Inpaint,
    autoguidance,
    clip_guidance,
    compose,
    img2img,
    initial_noise,
    interpolate,
    interval,
    invert,
    pigdm,
    sample,
    uniform,
)
from diffusion_jax.systems.diffusion.likelihood import bits_per_dim
from diffusion_jax.systems.diffusion.loss import example_keys, generate
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.typing import Array, DenoiseFn
from experiments.digits.reader import Reader

EVALUATIONS = 40
"""Calls of the network a sample, the same for every method: 20 steps where each step asks twice."""
TRIPLES = [(d, w, s) for d in range(10) for w in digits.WEIGHTS for s in digits.SLANTS for _ in range(3)]
PHRASES = {"backward": "leaning left", "upright": "standing upright", "slanted": "leaning right"}
INTERVAL = (0.2, 3.0)


@dataclasses.dataclass(frozen=True)
class Bench:
    """The run, the weaker model, the reader, training scans and those of the held-out split."""

    run: DiffusionRun
    weak: DiffusionRun
    reader: Reader
    train: dict[str, np.ndarray]
    scans: dict[str, np.ndarray]
    split: str
    seed: int

    def draw(
        self, guided: DenoiseFn, prompts: list[str] | None, steps: int = 20, start: int = 0, count: int = 0
    ) -> Any:
        """Images by DDIM from the noise of `start` on; without prompts, `count` of them."""
        cond = None if prompts is None else self.run.encode_text(prompts)
        keys = example_keys(self.seed, start, count or len(prompts or ()))
        return np.asarray(generate(guided, self.run.schedule, DDIM(), uniform(steps), keys, self.run.shape, cond))

    def right(self, images: np.ndarray, wanted: list[tuple[int, str, str]]) -> tuple[float, float]:
        """The share of images whose digit, weight and lean are those asked for, and of those whose digit is."""
        labels = np.array([d for d, _, _ in wanted])
        found = digits.classify(images, labels)
        read = self.reader.read(images) == labels
        weight = found["weight"] == [digits.WEIGHTS.index(w) for _, w, _ in wanted]
        slant = found["slant"] == [digits.SLANTS.index(s) for _, _, s in wanted]
        return float((read & weight & slant).mean()), float(read.mean())

    def variety(self, guided: Callable[[list[str]], DenoiseFn], steps: int, each: int = 20) -> float:
        """Mean distance between samples of one prompt over that of real scans of the digit, over the ten digits."""
        prompts = [prompt for prompt in PROMPTS for _ in range(each)]
        images = self.draw(guided(prompts), prompts, steps, 10_000).reshape(10, each, -1)
        real = [self.train["image"][self.train["label"] == d].reshape(-1, images.shape[-1]) for d in range(10)]
        return float(np.mean([mean_pairwise_distance(a) / mean_pairwise_distance(b) for a, b in zip(images, real)]))


def sentence(digit: int, weight: str, slant: str) -> str:
    """A prompt that says all three."""
    return with_article(f"a {weight} {CLASS_NAMES[digit]} {PHRASES[slant]}")


def steps_within(bench: Bench) -> int:
    """The steps of EVALUATIONS calls where those inside INTERVAL ask twice."""
    schedule = bench.run.schedule

    def calls(n: int) -> int:
        ts = jnp.asarray(uniform(n)[:-1])
        level = schedule.sigma(ts) / jnp.maximum(schedule.alpha(ts), 1e-6)
        return n + int(((level >= INTERVAL[0]) & (level <= INTERVAL[1])).sum())

    return max(n for n in range(1, EVALUATIONS + 1) if calls(n) <= EVALUATIONS)


def methods(bench: Bench) -> dict[str, tuple[tuple[float, ...], int, Callable[[float, list[str]], DenoiseFn]]]:
    """Name -> (scales, steps, (scale, prompts) -> denoiser)."""
    run, half = bench.run, EVALUATIONS // 2

    def named(**spec: Any) -> Callable[[float, list[str]], DenoiseFn]:
        return lambda scale, _: run.guided(guidance_scale=scale, guidance=spec)

    def likeness(scale: float, prompts: list[str]) -> DenoiseFn:
        text = run.clip.encode_text(prompts)
        led = clip_guidance(run.denoise, run.clip.image_encoder, text, scale, schedule=run.schedule, of="xt")
        return interval(led, run.denoise, run.schedule, high=INTERVAL[1])

    scales = (1.5, 3.0, 6.0)
    return {
        "no guidance": ((1.0,), EVALUATIONS, named(name="classifier_free")),
        "classifier-free": (scales, half, named(name="classifier_free")),
        "rescaled 0.7": (scales, half, named(name="classifier_free", rescale=0.7)),
        "APG": (scales, half, named(name="apg")),
        "CFG++": ((0.2, 0.5, 0.9), half, named(name="cfg_plus_plus")),
        "CFG-Zero*": (scales, half, named(name="cfg_zero")),
        "interval": (scales, steps_within(bench), named(name="classifier_free", interval=INTERVAL)),
        "dynamic threshold": (scales, half, named(name="classifier_free", threshold=0.95)),
        "autoguidance": (scales, half, lambda scale, _: autoguidance(run.denoise, bench.weak.denoise, scale)),
        "CLIP gradient": ((10.0, 30.0, 100.0), half, likeness),
    }


def compare(bench: Bench, out: dict[str, Any], pictures: dict[str, Any]) -> None:
    """Every method at its scales: what is right, what is various, and a few pictures from the same noise."""
    prompts = [sentence(*triple) for triple in TRIPLES]
    shown = [sentence(7, "bold", "slanted")] * 6
    for name, (scales, steps, make) in methods(bench).items():
        for scale in scales:
            images = bench.draw(make(scale, prompts), prompts, steps)
            all_right, digit = bench.right(images, TRIPLES)
            spread = bench.variety(lambda p, make=make, scale=scale: make(scale, p), steps)  # type: ignore[misc]
            beyond = float((np.abs(images) > 1.05).mean())
            row = {"method": name, "scale": scale, "steps": steps, "right": all_right, "digit": digit}
            out.setdefault("guidance", []).append(row | {"variety": spread, "beyond": beyond})
        pictures[name] = bench.draw(make(scales[len(scales) // 2], shown), shown, steps, 20_000)


def negative(bench: Bench, out: dict[str, Any], pictures: dict[str, Any]) -> None:
    """Shares of what the negative prompts name, at guidance 3 from the same noise."""
    labels = np.arange(200) % 10
    prompts = [PROMPTS[d] for d in labels]
    rows = []
    for text, kind, value in (
        ("a thin digit", "weight", "thin"),
        ("a bold digit", "weight", "bold"),
        ("a slanted digit", "slant", "slanted"),
    ):
        names = digits.WEIGHTS if kind == "weight" else digits.SLANTS
        shares, digit = [], []
        for other in (None, text):
            images = bench.draw(bench.run.guided(guidance_scale=3.0, negative=other), prompts, start=30_000)
            shares.append(float((digits.classify(images, labels)[kind] == names.index(value)).mean()))
            digit.append(bench.reader.accuracy(images, labels))
        rows.append({"negative": text, "without": shares[0], "with": shares[1], "digit": digit[1]})
        pictures[text] = images[np.flatnonzero(labels == 7)][:8]
    pictures["none"] = bench.draw(bench.run.guided(guidance_scale=3.0), prompts, start=30_000)[labels == 7][:8]
    out["negative"] = rows


def composition(bench: Bench, out: dict[str, Any], pictures: dict[str, Any]) -> None:
    """Two prompts at once, one prompt that says both, and the first without the second."""
    run, count = bench.run, 100
    labels = np.arange(count) % 10
    first = [PROMPTS[d] for d in labels]
    cond, bold = run.encode_text(first), run.encode_text(["a bold digit"])
    none = run.encode_text([""])
    pairs = {
        "digit alone": compose(run.denoise, none, [cond], [3.0]),
        "digit and bold": compose(run.denoise, none, [cond, bold], [3.0, 3.0]),
        "digit and not bold": compose(run.denoise, none, [cond, bold], [3.0, -1.5]),
    }
    for name, made in pairs.items():
        images = bench.draw(made, None, start=40_000, count=count)
        found = digits.classify(images, labels)["weight"]
        share = float((found == digits.WEIGHTS.index("bold")).mean())
        out.setdefault("composition", []).append(
            {"prompts": name, "bold": share, "digit": bench.reader.accuracy(images, labels)}
        )
        pictures[name] = images[:10]
    both = [run.encode_text(["a three"]), run.encode_text(["a six"])]
    pictures["a three and a six"] = bench.draw(
        compose(run.denoise, none, both, [2.0, 2.0]), None, start=41_000, count=10
    )


def image_to_image(bench: Bench, out: dict[str, Any], pictures: dict[str, Any]) -> None:
    """Scans of threes made into eights, by strength."""
    run = bench.run
    scans = bench.scans["image"][bench.scans["label"] == 3][:30]
    keys, cond = example_keys(bench.seed, 50_000, len(scans)), run.encode_text(["an eight"] * len(scans))
    guided = run.guided(guidance_scale=3.0)
    pictures["source"] = scans[:8]
    for strength in (0.2, 0.4, 0.5, 0.6, 0.8, 1.0):
        made = img2img(guided, run.schedule, DDIM(), jnp.asarray(scans), uniform(40), keys, strength, cond)
        images = np.asarray(made)
        far = float(np.sqrt(((images - scans) ** 2).sum((1, 2, 3))).mean())
        eights = float((bench.reader.read(images) == 8).mean())
        out.setdefault("img2img", []).append({"strength": strength, "eights": eights, "distance": far})
        pictures[f"{strength:g}"] = images[:8]


def inpainting(bench: Bench, out: dict[str, Any], pictures: dict[str, Any]) -> None:
    """The lower half of held-out scans, drawn beside the upper one."""
    run, count = bench.run, 100
    scans, labels = bench.scans["image"][:count], bench.scans["label"][:count]
    mask = np.zeros((1, *run.shape), bool)
    mask[:, : run.shape[0] // 2] = True
    keys = example_keys(bench.seed, 60_000, count)
    x1 = initial_noise(keys, scans.shape, run.schedule)
    told = run.encode_text([PROMPTS[d] for d in labels])
    silent = run.encode_text([""] * count)
    pictures["scan"], pictures["known"] = scans[:10], np.where(mask, scans, -1.0)[:10]
    for name, cond, repeats in (
        ("replacement, no prompt", silent, 1),
        ("RePaint, no prompt", silent, 8),
        ("RePaint, prompt", told, 8),
    ):
        solver = Inpaint(DDPM(), jnp.asarray(scans), jnp.asarray(mask), repeats=repeats)
        images = np.asarray(sample(run.denoise, run.schedule, solver, x1, uniform(40), keys, cond))
        assert np.array_equal(images[:, mask[0]], scans[:, mask[0]])
        seam = np.abs(images[:, 4] - images[:, 3]).mean() / np.abs(scans[:, 4] - scans[:, 3]).mean()
        row = {"method": name, "digit": bench.reader.accuracy(images, labels), "seam": float(seam)}
        out.setdefault("inpainting", []).append(row)
        pictures[name] = images[:10]


def inverse(bench: Bench, out: dict[str, Any], pictures: dict[str, Any]) -> None:
    """Scans seen through 2 x 2 means, with a little noise: 16 numbers for 64."""
    run, count, noise_std = bench.run, 100, 0.05
    scans, labels = jnp.asarray(bench.scans["image"][:count]), bench.scans["label"][:count]
    key = jax.random.key(bench.seed)
    y = pooled(scans) + noise_std * jax.random.normal(key, (count, 4, 4, 1))
    keys, cond = example_keys(bench.seed, 70_000, count), run.encode_text([""] * count)
    x1 = initial_noise(keys, scans.shape, run.schedule)
    blurred = np.repeat(np.repeat(np.asarray(y), 2, 1), 2, 2)
    guided = pigdm(run.denoise, pooled, y, noise_std, 0.3, schedule=run.schedule)  # .3 is best on validation
    found = {
        "blurred": blurred,
        "PiGDM": sample(guided, run.schedule, DDIM(1.0), x1, uniform(100), keys, cond),
        "DPS": sample(run.denoise, run.schedule, DPS(DDPM(), pooled, y, 0.5), x1, uniform(200), keys, cond),
    }
    pictures["truth"] = np.asarray(scans[:10])
    for name, images in found.items():
        images = np.asarray(images)
        error = np.asarray(jnp.sqrt(jnp.mean((pooled(jnp.asarray(images)) - y) ** 2)))
        row = {"method": name, "psnr": psnr(images, np.asarray(scans)), "digit": bench.reader.accuracy(images, labels)}
        out.setdefault("inverse", []).append(row | {"misfit": float(error)})
        pictures[name] = images[:10]


def pooled(x: Array) -> Array:
    """Means of 2 x 2 pixels."""
    return x.reshape(x.shape[0], 4, 2, 4, 2, 1).mean((2, 4))


def psnr(images: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]."""
    return float(10 * np.log10(4.0 / np.mean((images - truth) ** 2)))


def paths(bench: Bench, out: dict[str, Any], pictures: dict[str, Any]) -> None:
    """Walks between two noises under one prompt, and the round trip of held-out scans through noise."""
    run, count = bench.run, 9
    guided = run.guided(guidance_scale=2.0)
    for name in ("a seven", "a bold two", "an eight"):
        ends = initial_noise(example_keys(bench.seed, 80_000, 2), (2, *run.shape), run.schedule)
        x1 = interpolate(ends[0], ends[1], count)
        cond = run.encode_text([name] * count)
        images = sample(guided, run.schedule, DDIM(), x1, uniform(20), jax.random.key(0), cond)
        pictures[name] = np.asarray(images)
    scans = bench.scans["image"][:100]
    cond = run.encode_text([PROMPTS[d] for d in bench.scans["label"][:100]])
    for steps, refinements in ((20, 0), (50, 0), (50, 2), (100, 0)):
        x1 = invert(run.denoise, run.schedule, jnp.asarray(scans), uniform(steps), cond=cond, refinements=refinements)
        back = np.asarray(sample(run.denoise, run.schedule, DDIM(), x1, uniform(steps), jax.random.key(0), cond))
        row = {"steps": steps, "refinements": refinements, "psnr": psnr(back, scans), "std": float(jnp.std(x1))}
        out.setdefault("inversion", []).append(row)
        pictures[f"back {steps} {refinements}"] = back[:10]
    pictures["scans"] = scans[:10]


def likelihood(bench: Bench, out: dict[str, Any], pictures: dict[str, Any]) -> None:
    """Bits per dimension of the held-out scans."""
    out["bits_per_dim"] = bits_per_dim(bench.run, bench.split, scans=180, seed=bench.seed)


PARTS = (compare, negative, composition, image_to_image, inpainting, inverse, paths, likelihood)
"""part(bench, numbers of all, pictures of its own), in the order of the page."""
