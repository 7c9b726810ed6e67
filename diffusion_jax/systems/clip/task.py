"""Training CLIP: on the digits, whose captions say what is measured on them, and on pictures with captions of one's own."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion_jax import build, runs
from diffusion_jax.contrastive import infonce, sigmoid_loss
from diffusion_jax.data.examples import Examples
from diffusion_jax.data.pairs import caption_identity, pair_batches
from diffusion_jax.data.pictures.augmentation import add_noise, random_shift
from diffusion_jax.data.pictures.preprocess import Preprocess
from diffusion_jax.data.pipeline import batches, caption_table, columns
from diffusion_jax.data.reading import held_out_items
from diffusion_jax.data.sources.class_folder import ClassFolder
from diffusion_jax.metrics import class_embeddings, classify, topk_accuracy
from diffusion_jax.nets import Network
from diffusion_jax.systems.clip.loss import LOGIT_SCALE_RANGE, clip_loss
from diffusion_jax.systems.clip.measures import Skipped, check_classes, read_templates, recall_of, zero_shot_of
from diffusion_jax.systems.clip.network import beside_preset, clip_sizes, contrastive_loss
from diffusion_jax.systems.clip.pretrained import initial_params
from diffusion_jax.systems.clip.run import VOCABULARY, ClipRun, clip_model_of, clip_parts, example_of
from diffusion_jax.systems.resume import vocabulary_files
from diffusion_jax.systems.system import Task, process_slice
from diffusion_jax.train.state import TrainState
from diffusion_jax.train.step import make_eval_step
from diffusion_jax.typing import Batch, LossFn, Tokenizer, UserError

__all__ = ["clip_task", "recipe_loss"]

_log = logging.getLogger(__name__)
CLAMP = {"logit_scale$": LOGIT_SCALE_RANGE}


def clip_task(config: ConfigDict, folder: Path, key: jax.Array) -> Task:
    """CLIP on captioned images: a random caption of each, zero-shot or retrieval on held-out ones."""
    return (_pictures if build.gives_pictures(config.data) else _arrays)(config, folder, key)


def _arrays(config: ConfigDict, folder: Path, key: jax.Array) -> Task:
    """Images shifted a little; zero-shot accuracy on the validation split where the data name their classes."""
    example = example_of(config)
    network, tokenizer, _ = clip_parts(config, example)
    train, held_out = (build.source(config.data, split) for split in ("train", "validation"))
    captions = caption_table(train)
    tokens = tokenizer.encode(captions.unique)["tokens"]
    altered = build.augmentation(config.data)

    def transform(batch: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        picked = captions.pick(batch["index"], rng)
        images = add_noise(random_shift(batch["image"], rng, altered["shift"]), rng, altered["noise"])
        return {"image": images, "tokens": tokens[picked]}

    known = columns(held_out)
    held_tokens = tokenizer.encode([held_out[i]["captions"][0] for i in range(len(held_out))])["tokens"]
    eval_step = jax.jit(make_eval_step(clip_loss(network.apply, loss=_loss_options(config)["name"])))
    held_batch = {"image": known["image"], "tokens": held_tokens}
    names, templates = getattr(train, "class_names", ()), getattr(train, "templates", ("{}",))

    def evaluate(state: TrainState, done: int) -> dict[str, float]:
        metrics = eval_step(state, held_batch, key)
        numbers = {"val_loss": float(metrics["loss"]), "val_loss_ema": float(metrics["ema_loss"])}
        for suffix, params in (("", state.params), ("_ema", state.ema)) if names else ():
            run = dataclasses.replace(probe, params=params)
            classes = class_embeddings(run.encode_text, names, templates)
            found = topk_accuracy(classify(run.encode_image(known["image"]), classes), known["label"])
            numbers[f"val_zero_shot{suffix}"] = found
        return numbers

    probe = ClipRun(folder, config, network, {}, tokenizer)
    stream = batches(train, config.batch_size, config.seed, transform, **process_slice())
    initial = initial_params(config.get("weights"), clip_model_of(config, tokenizer, example), tokenizer, None)
    return Task(
        network,
        recipe_loss(config, network),
        stream,
        evaluate,
        clamp=CLAMP,
        initial=initial,
        counts=f"{len(train)} examples to train on, {len(held_out)} held out",
        notes={runs.EXAMPLE: example},
        copies=_vocabulary(config),
        words=functools.partial(_words, tokenizer),
    )


def _vocabulary(config: ConfigDict) -> dict[str, Path]:
    """The files of the config's vocabulary by where a run keeps them: it can then be used wherever it lies."""
    path = (config.get("tokenizer") or {}).get("path")
    return {f"{VOCABULARY}/{file.name}": file for file in vocabulary_files(path)} if path else {}


def _pictures(config: ConfigDict, folder: Path, key: jax.Array) -> Task:
    """Pictures and captions of one's own: retrieval on held-out pairs, and zero-shot where a folder of classes is given."""
    network, tokenizer, prepare = clip_parts(config)
    if prepare is None:
        raise UserError(f"data {config.data.name!r} holds photographs, which need a preprocess")
    options = build.reading(config.data)
    train, held_out = (
        build.captioned(config.data, build.source(config.data, split)) for split in ("train", "validation")
    )
    loss = _loss_options(config)
    stream = pair_batches(
        train,
        config.batch_size,
        config.seed,
        build.cropping(prepare, options),
        tokenizer,
        identity=loss["identity"],
        flip=options["flip"],
        on_error=options["on_error"],
        error_share=options["error_share"],
        workers=options["workers"] or None,
        **process_slice(),
    )
    probe = ClipRun(folder, config, network, {}, tokenizer, prepare)
    evaluate, measured = _evaluation(config, probe, held_out, options, loss)
    counts = f"{len(train)} pictures to train on, {len(held_out)} held out"
    counts += f", of which {measured} are measured" if measured < len(held_out) else ""
    if config.batch_size > len(train):
        counts += f"; a batch of {config.batch_size} holds some more than once"
    if told := beside_preset(config.model):
        counts += f"; {told}"
    initial = initial_params(config.get("weights"), clip_model_of(config, tokenizer), tokenizer, prepare)
    loss_fn = recipe_loss(config, network, prepare)
    copies = _vocabulary(config)
    return Task(
        network,
        loss_fn,
        stream,
        evaluate,
        clamp=CLAMP,
        initial=initial,
        counts=counts,
        copies=copies,
        words=functools.partial(_words, tokenizer),
    )


def _words(tokenizer: Tokenizer, step: int, batch: Batch) -> list[str]:
    """The captions of a batch as the network reads them; of a tokenizer of one's own that cannot be read back, none."""
    decode = getattr(tokenizer, "decode", None)
    return [] if decode is None else [decode(row) for row in batch["tokens"]]


def _evaluation(
    config: ConfigDict, probe: ClipRun, held_out: Any, options: Mapping[str, Any], loss: Mapping[str, Any]
) -> tuple[Callable[[TrainState, int], dict[str, float]], int]:
    """(held-out loss, retrieval and zero-shot of raw and averaged weights, of how many pictures); these are read once."""
    assert probe.preprocess is not None
    read = Examples(held_out, probe.preprocess.pixels)
    items = held_out_items(read, options["eval_pairs"], options["on_error"], options["error_share"])
    pixels = np.stack([item["image"] for item in items])
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
    return contrastive_loss(config.get("loss"), logit_bias=clip_sizes(config.model)["logit_bias"])


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
        mesh=(mesh or build.mesh(config.get("mesh"))) if spread or options["micro_batches"] > 1 else None,
        chunk=options["chunk"] or None,
    )
