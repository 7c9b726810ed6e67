"""The arguments of `diffusion-jax evaluate`."""

from __future__ import annotations

from typing import Any

from diffusion_jax.cli.options.words import Help, columns, moved

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a run",
        formatter_class=Help,
        description="Measure a run on its held-out data, into report/metrics.json or measures.json: what a CLIP finds, what a\n"
        "diffusion model draws, how an autoencoder reconstructs; or a CLIP on pictures of yours, into\n"
        "report/clip_metrics.json.",
        epilog="examples: diffusion-jax evaluate --run runs/digits --split validation --samples 500\n"
        "          diffusion-jax evaluate --run runs/digits --bits-per-dim\n"
        "          diffusion-jax evaluate --run runs/fashion --samples 10000 --features lite0\n"
        "          diffusion-jax evaluate --run clip-vit-base-patch32 --zero-shot imagenet/val --templates seven\n"
        "          diffusion-jax evaluate --run runs/my_clip --retrieval pictures --out /tmp/numbers",
    )
    evaluate.add_argument(
        "--run", required=True, metavar="DIR", help="the run's folder, such as runs/digits, or published CLIP weights"
    )
    evaluate.add_argument(
        "--split",
        choices=("validation", "test"),
        default="test",
        help="make choices on validation, report test; with --retrieval or --clip-score: of DIR the pictures that the "
        "run's own data hold out so (otherwise all of DIR)",
    )
    moved(evaluate)
    evaluate.add_argument("--samples", type=int, metavar="N", default=500, help="samples for the main numbers")
    evaluate.add_argument("--seed", type=int, default=0, help="seed of the samples")
    evaluate.add_argument(
        "--bits-per-dim",
        action="store_true",
        help="measure the likelihood of the scans instead: the ODE beside the bound, into bits_per_dim.json",
    )
    evaluate.add_argument(
        "--scans", type=int, metavar="N", help="with --bits-per-dim: the first N scans (default: all)"
    )
    evaluate.add_argument(
        "--divergence",
        default="rademacher",
        help="with --bits-per-dim: exact (64 derivatives an evaluation), gaussian or rademacher (4 probes a scan)",
    )
    evaluate.add_argument(
        "--metric",
        metavar="NAME",
        action="append",
        default=[],
        help="a metric of the run's system (loss_by_noise, nearest and samples of a diffusion run, retrieval "
        "of a CLIP, reconstruction and latents of an autoencoder) or of yours as module:attribute; "
        "repeat it for several "
        "(default: what the run's data bring, or all)",
    )
    evaluate.add_argument(
        "--features",
        metavar="NAME",
        help="what pictures are compared in, drawn ones of a diffusion run or what comes back of an autoencoder: pixels, "
        "lite0 (EfficientNet-Lite0), the folder of a CLIP run or of published CLIP weights, or yours as "
        "module:attribute (default: pixels)",
    )
    evaluate.add_argument("--zero-shot", metavar="DIR", help="of a CLIP: classify the pictures DIR/CLASS/PICTURE")
    evaluate.add_argument("--classes", metavar="FILE", help='with --zero-shot: a JSON file {"folder": "name", ...}')
    evaluate.add_argument(
        "--templates",
        metavar="NAME",
        default="photo",
        help="with --zero-shot: actions, aircraft, cars, digits, flowers, food, pets, photo, plain, satellite, scenes, seven, "
        "textures, or a file with a template a line, such as 'a photo of a {}.'",
    )
    evaluate.add_argument(
        "--retrieval", metavar="DIR", help="of a CLIP: recall between the pictures and captions of DIR"
    )
    evaluate.add_argument(
        "--linear-probe", nargs=2, metavar="DIR", help="of a CLIP: the classes of one folder learned, of another read"
    )
    evaluate.add_argument(
        "--clip-score", metavar="DIR", help="of a CLIP: the score of the pictures and captions of DIR"
    )
    columns(evaluate, "with --retrieval, --clip-score: ")
    evaluate.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        help="of pictures of yours that cannot be read and empty captions: stop at the first (raise, the default), or leave "
        "them out, counted and named in the numbers",
    )
    evaluate.add_argument(
        "--exif",
        action="store_true",
        default=None,
        help="of published weights: turn photographs as their camera was held (open_clip does not)",
    )
    evaluate.add_argument("--model", metavar="NAME", help="of published weights that do not say it: ViT-B-32, ...")
    evaluate.add_argument(
        "--tokenizer", metavar="PATH", help="of published weights: the vocabulary, if not beside them"
    )
    evaluate.add_argument("--out", metavar="DIR", help="where to write (default: RUN/report)")
