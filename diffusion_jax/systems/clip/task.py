"""Training CLIP: on the digits, whose captions say what is measured on them, and on pictures with captions of one's own."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.contrastive import infonce, sigmoid_loss
from diffusion_jax.data.pairs import caption_identity, check_share, pair_batches, read_picture
from diffusion_jax.data.pictures.augmentation import add_noise, random_shift
from diffusion_jax.data.pictures.preprocess import Preprocess
from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources.class_folder import ClassFolder
from diffusion_jax.data.sources.digits import CLASS_NAMES, TEMPLATES
from diffusion_jax.metrics import class_embeddings, classify, topk_accuracy
from diffusion_jax.nets import Network
from diffusion_jax.parallel.mesh import make_mesh
from diffusion_jax.systems.clip.loss import LOGIT_SCALE_RANGE, clip_loss
from diffusion_jax.systems.clip.measures import Skipped, check_classes, read_templates, recall_of, zero_shot_of
from diffusion_jax.systems.clip.pretrained import initial_params
from diffusion_jax.systems.clip.run import ClipRun, clip_model_of, clip_parts
from diffusion_jax.systems.system import Task, captioned, process_slice
from diffusion_jax.train.state import TrainState
from diffusion_jax.train.step import make_eval_step
from diffusion_jax.typing import LossFn, UserError

__all__ = ["clip_task", "recipe_loss"]

_log = logging.getLogger(__name__)
CLAMP = {"logit_scale$": LOGIT_SCALE_RANGE}


def clip_task(config: ConfigDict, folder: Path, key: jax.Array) -> Task:
    """CLIP on captioned images: a random caption of each, zero-shot or retrieval on held-out ones."""
    build.one_data(config.data.name)
    return (_digits if config.data.name in build.SOURCES else _pairs)(config, folder, key)


def _digits(config: ConfigDict, folder: Path, key: jax.Array) -> Task:
    """Images shifted a little, zero-shot accuracy on the validation scans."""
    network, tokenizer, _ = clip_parts(config)
    data = captioned(config.data.name)
    tokens = tokenizer.encode(data.unique)["tokens"]

    def transform(batch: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        picked = data.rows[batch["index"], rng.integers(data.rows.shape[1], size=len(batch["index"]))]
        images = add_noise(random_shift(batch["image"], rng, config.data.shift), rng, config.data.noise)
        return {"image": images, "tokens": tokens[picked]}

    columns = data.held_out.columns()
    held_tokens = tokenizer.encode(data.held_captions)["tokens"]
    eval_step = jax.jit(make_eval_step(clip_loss(network.apply, loss=_loss_options(config)["name"])))
    held_batch = {"image": columns["image"], "tokens": held_tokens}

    def evaluate(state: TrainState, done: int) -> dict[str, float]:
        metrics = eval_step(state, held_batch, key)
        numbers = {"val_loss": float(metrics["loss"]), "val_loss_ema": float(metrics["ema_loss"])}
        for suffix, params in (("", state.params), ("_ema", state.ema)):
            numbers[f"val_zero_shot{suffix}"] = _zero_shot(dataclasses.replace(probe, params=params), columns)
        return numbers

    probe = ClipRun(folder, config, network, {}, tokenizer)
    stream = batches(data.train, config.batch_size, config.seed, transform, **process_slice())
    initial = initial_params(config.get("weights"), clip_model_of(config, tokenizer), tokenizer, None)
    loss_fn = recipe_loss(config, network)
    return Task(network, loss_fn, stream, evaluate, clamp=CLAMP, initial=initial, counts=data.counts)


def _zero_shot(run: ClipRun, columns: Mapping[str, np.ndarray]) -> float:
    classes = class_embeddings(run.encode_text, CLASS_NAMES, TEMPLATES)
    return topk_accuracy(classify(run.encode_image(columns["image"]), classes), columns["label"])


def _pairs(config: ConfigDict, folder: Path, key: jax.Array) -> Task:
    """Pictures and captions of one's own: retrieval on held-out pairs, and zero-shot where a folder of classes is given."""
    network, tokenizer, prepare = clip_parts(config)
    if prepare is None:
        raise UserError(f"data {config.data.name!r} holds photographs, which need a preprocess")
    options = build.reading(config.data)
    train, held_out = (build.pairs(config.data, split) for split in ("train", "validation"))

    def image(raw: Any, rng: np.random.Generator) -> np.ndarray:
        if options["crop"] == "center":
            return prepare.pixels(raw)
        return prepare.random_pixels(raw, rng, scale=tuple(options["crop_scale"]))

    loss = _loss_options(config)
    stream = pair_batches(
        train,
        config.batch_size,
        config.seed,
        image,
        tokenizer,
        identity=loss["identity"],
        on_error=options["on_error"],
        workers=options["workers"] or None,
        **process_slice(),
    )
    probe = ClipRun(folder, config, network, {}, tokenizer, prepare)
    evaluate, measured = _evaluation(config, probe, held_out, options, loss)
    counts = f"{len(train)} pictures to train on, {len(held_out)} held out"
    counts += f", of which {measured} are measured" if measured < len(held_out) else ""
    if config.batch_size > len(train):
        counts += f"; a batch of {config.batch_size} holds some more than once"
    if told := build.beside_preset(config.model):
        counts += f"; {told}"
    initial = initial_params(config.get("weights"), clip_model_of(config, tokenizer), tokenizer, prepare)
    loss_fn = recipe_loss(config, network, prepare)
    return Task(network, loss_fn, stream, evaluate, clamp=CLAMP, initial=initial, counts=counts)


def _held_out(held_out: Any, prepare: Preprocess, most: int, on_error: str) -> tuple[list[dict[str, Any]], np.ndarray]:
    """(the first `most` held-out items whose pictures can be read, those pictures, uint8).

    With `on_error` "skip" the others are counted and named in the log; UserError when they are more than half.
    """
    items: list[dict[str, Any]] = []
    pixels, unread = [], []
    for index in range(len(held_out)):
        if len(items) == most:
            break
        try:
            item = held_out[index]
            pixels.append(read_picture(item, prepare.pixels))
            items.append(item)
        except UserError as error:
            if on_error == "raise":
                raise UserError(f"held-out picture: {error}; --config.data.on_error=skip leaves such out") from error
            unread.append(str(error))
            _log.warning("held-out picture %d is skipped (%d so far): %s", index, len(unread), error)
    if unread:
        check_share(len(unread), len(unread) + len(items), "the held-out pictures", unread[0])
        _log.info("%d held-out pictures are measured, %d that cannot be read are not", len(items), len(unread))
    return items, np.stack(pixels)


def _evaluation(
    config: ConfigDict, probe: ClipRun, held_out: Any, options: Mapping[str, Any], loss: Mapping[str, Any]
) -> tuple[Callable[[TrainState, int], dict[str, float]], int]:
    """(held-out loss, retrieval and zero-shot of raw and averaged weights, of how many pictures); these are read once."""
    assert probe.preprocess is not None
    items, pixels = _held_out(held_out, probe.preprocess, options["eval_pairs"], options["on_error"])
    captions = [item["captions"] for item in items]
    same = jnp.asarray(caption_identity([texts[0] for texts in captions])) if loss["identity"] else None
    classes, templates = _classes(config.get("zero_shot") or {})
    skipped = Skipped(options["on_error"], "--config.data.on_error=skip")

    def evaluate(state: TrainState, done: int) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for suffix, params in (("", state.params), ("_ema", state.ema)):
            run = dataclasses.replace(probe, params=params)
            image, text = run.encode_image(pixels, batch_size=64), run.encode_text([texts[0] for texts in captions])
            scale = jnp.exp(params["logit_scale"])
            two = jnp.asarray(image), jnp.asarray(text)
            if loss["name"] == "sigmoid":
                each = sigmoid_loss(*two, scale, params["logit_bias"], identity=same)
            else:
                each = infonce(*two, scale, identity=same)
            numbers[f"val_loss{suffix}"] = float(each.mean())
            found = recall_of(run, image, captions)
            for way, short in (("image_to_text", "i2t"), ("text_to_image", "t2i")):
                numbers |= {f"val_{short}_r{k}{suffix}": found[way][f"r{k}"] for k in (1, 5, 10)}
            if classes is not None:
                known = len(skipped.files)
                numbers[f"val_zero_shot{suffix}"] = zero_shot_of(run, classes, templates, skipped=skipped).accuracy(1)
                if len(skipped.files) > known:
                    unread, named = len(skipped.files), next(iter(skipped.files.values()))
                    _log.warning("%d of %d zero-shot pictures are skipped, the first: %s", unread, len(classes), named)
        return numbers

    return evaluate, len(items)


def _classes(spec: build.Spec) -> tuple[ClassFolder | None, tuple[str, ...]]:
    """The folder of classes and the templates of a config's `zero_shot` group; no folder where its path is empty."""
    if spec:
        build.accepts("zero_shot", lambda path, classes=None, templates="photo": None, spec)
    templates = read_templates(spec.get("templates", "photo"))
    folder = check_classes(ClassFolder(spec["path"], spec.get("classes"))) if spec.get("path") else None
    return folder, templates


def _loss_options(config: ConfigDict) -> dict[str, Any]:
    return build.contrastive_loss(config.get("loss"), logit_bias=build.clip_sizes(config.model)["logit_bias"])


def recipe_loss(
    config: ConfigDict, network: Network, prepare: Preprocess | None = None, *, mesh: Mesh | None = None
) -> LossFn:
    """The contrastive loss of a config, on its own mesh unless one is given; uint8 pictures are normalised on the device."""
    options = _loss_options(config)
    spread = options["chunk"] > 0

    def normalised(call: Callable[..., Any]) -> Callable[..., Any]:
        if prepare is None:
            return call
        return lambda params, images, *rest, **how: call(params, prepare.normalise(images), *rest, **how)

    return clip_loss(
        normalised(network.apply),
        loss=options["name"],
        encoders=(normalised(network.method("encode_image")), network.method("encode_text")),
        micro_batches=options["micro_batches"],
        mesh=(mesh or make_mesh(**config.mesh)) if spread or options["micro_batches"] > 1 else None,
        chunk=options["chunk"] or None,
    )
