"""How a checkpoint says images are prepared, as keyword arguments of `data.pictures.preprocess.Preprocess`; a row a field.

**Hugging Face** (`preprocessor_config.json`): RGB first, resize, centre crop (an odd border is halved downwards), times
`rescale_factor`, minus mean, over std. As values here are level / 255, a factor f gives mean / (255 f) and std / (255 f), and
no normalisation mean 0 and std 1 / (255 f). The resize is PIL's; transformers' torchvision backend is within a level of it.
**open_clip** (`preprocess_cfg`): resize, centre crop (ties to even), RGB, / 255, minus mean, over std. The size is the model's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from diffusion_jax.convert.clip_config import OPENAI, SIGLIP, Config
from diffusion_jax.convert.fields import UNUSED, Table, choice, flag, group, number, only, read, reads, whole
from diffusion_jax.typing import UserError

__all__ = ["PREPROCESS_TABLES", "RESAMPLE", "from_preprocess_cfg", "from_preprocessor", "resized_preprocess"]

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""PIL's numbers of its filters."""
_OF_CLIP = ("CLIPImageProcessor", "CLIPFeatureExtractor", "CLIPImageProcessorFast", "CLIPImageProcessorPil")
_OF_SIGLIP = ("SiglipImageProcessor", "SiglipImageProcessorFast", "SiglipImageProcessorPil")


def _filter(what: str, value: Any) -> str:
    """PIL's number of a filter."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in RESAMPLE:
        known = ", ".join(f"{number} {name}" for number, name in RESAMPLE.items())
        raise UserError(f"{what} {value!r} is not known (known: {known})")
    return RESAMPLE[value]


def _perhaps(what: str, value: Any) -> bool:
    """true, false, or null, which transformers takes for false."""
    return value is not None and flag(what, value)


def _three(what: str, value: Any) -> list[float]:
    """A number for each of red, green and blue, or one for all."""
    values = value if isinstance(value, list | tuple) else [value] * 3
    right = all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in values)
    if len(values) != 3 or not right:
        raise UserError(f"{what} {value!r} is neither a number nor three of them")
    return [float(one) for one in values]


def _spread(what: str, value: Any) -> list[float]:
    """The same, above 0."""
    values = _three(what, value)
    if min(values) <= 0:
        raise UserError(f"{what} {value!r} must be above 0")
    return values


def _size(what: str, value: Any) -> tuple[str, int]:
    """("shortest" | "squash" | "number", pixels): {"shortest_edge": n}, {"height": n, "width": n}, [n, n] or n."""
    if not isinstance(value, Mapping | list | tuple):
        return "number", whole(what, value)
    if isinstance(value, Mapping) and set(value) == {"shortest_edge"}:
        return "shortest", whole(f"{what}: shortest_edge", value["shortest_edge"])
    sides = [value.get("height"), value.get("width")] if isinstance(value, Mapping) else list(value)
    if len(sides) != 2 or None in sides or (isinstance(value, Mapping) and len(value) != 2):
        raise UserError(
            f"{what} {value!r} is not possible here, only shortest_edge, equal height and width, or one number"
        )
    if sides[0] != sides[1]:
        raise UserError(f"{what} {value!r} is not square: pictures are squares here")
    return "squash", whole(what, sides[0])


PROCESSOR: Table = {
    "image_processor_type": reads(choice((*_OF_CLIP, *_OF_SIGLIP))),
    "feature_extractor_type": reads(choice((*_OF_CLIP, *_OF_SIGLIP))),
    "do_resize": only(True, why="pictures of other sizes do not fit the model"),
    "size": reads(_size),
    "default_to_square": reads(flag, False),
    "use_square_size": only(False, why="say size as height and width"),
    # A null is one thing to some versions of transformers and another to the rest, where `null` says so.
    "resample": reads(_filter, "bicubic", null=True),
    "do_center_crop": reads(_perhaps, null=True),
    "crop_size": reads(_size),
    "do_rescale": reads(flag, True, null=True),
    "rescale_factor": reads(number, 1 / 255),
    "do_normalize": reads(flag, True, null=True),
    "image_mean": reads(_three),
    "image_std": reads(_spread),
    "do_pad": only(False, why="pictures are not padded here"),
    "auto_map": only(None, why="it names code in the folder, which is not run"),
    # Without it transformers fails on all but RGB, and those are the same.
    "do_convert_rgb": UNUSED,
    **dict.fromkeys(
        [
            "pad_size",
            "processor_class",
            "data_format",
            "input_data_format",
            "return_tensors",
            "device",
            "disable_grouping",
            "image_seq_length",
            "transformers_version",
        ],
        UNUSED,
    ),
}
OPEN_CLIP: Table = {
    "mean": reads(_three, OPENAI["mean"]),
    "std": reads(_spread, OPENAI["std"]),
    "interpolation": reads(choice(("bicubic", "bilinear", "random")), "bicubic"),
    "resize_mode": reads(choice(("shortest", "squash")), "shortest"),
    "mode": only("RGB", why="open_clip's models take RGB"),
    "size": UNUSED,  # open_clip takes the model's
    "fill_color": UNUSED,  # of resize_mode "longest" alone
}
PREPROCESS_TABLES: dict[str, Table] = {"preprocessor_config.json": PROCESSOR, "preprocess_cfg": OPEN_CLIP}


def from_preprocessor(found: Mapping[str, Any] | None, model: Mapping[str, Any], where: str) -> Config:
    """The `preprocess` of a `preprocessor_config.json` for a model, the family's where there is none.

    Raises UserError for fields and values that the table does not have, and where what comes out is not the model's image_size.
    """
    siglip = bool(model.get("logit_bias"))
    sizes = read(PROCESSOR, found or {}, where)
    kind = sizes["image_processor_type"] or sizes["feature_extractor_type"]
    siglip = siglip if kind is None else kind in _OF_SIGLIP
    usual: Config = SIGLIP if siglip else OPENAI
    edge = model["vision"]["image_size"] if "vision" in model else None
    if found is None:
        return {**usual, "rgb": "before", "centre": "floor"}
    resize, size = sizes["size"] or (usual["resize"], 224)
    if resize == "number":
        resize = "squash" if sizes["default_to_square"] else "shortest"
    made: Config = {
        **_scaled(sizes, usual),
        "resize": resize,
        "interpolation": sizes["resample"],
        "rgb": "before",
        "centre": "floor",
    }
    cropped = not siglip if sizes["do_center_crop"] is None else sizes["do_center_crop"]
    if not cropped and resize == "shortest":
        raise UserError(
            f"{where}: size {size} of the shortest edge without do_center_crop leaves pictures that are not square"
        )
    crop = size
    if cropped:
        if sizes["crop_size"] is None and siglip:
            raise UserError(f"{where}: do_center_crop True needs crop_size")
        crop = (sizes["crop_size"] or ("squash", 224))[1]
    if crop > size:
        raise UserError(f"{where}: crop_size {crop} is above size {size}: pictures are not padded here")
    if edge is not None and crop != edge:
        name = "crop_size" if cropped else "size"
        raise UserError(f"{where}: {name} {crop} is not the model's image_size {edge}")
    return made | ({} if size == crop else {"size": size})


def _scaled(sizes: Mapping[str, Any], usual: Mapping[str, Any]) -> Config:
    """The mean and std of values in [0, 1] that do as `do_rescale`, `rescale_factor` and `do_normalize`."""
    factor = 255 * (sizes["rescale_factor"] if sizes["do_rescale"] else 1.0)
    mean, std = [0.0] * 3, [1.0] * 3
    if sizes["do_normalize"]:
        mean, std = sizes["image_mean"] or usual["mean"], sizes["image_std"] or usual["std"]
    if math.isclose(factor, 1.0, rel_tol=1e-6):  # 1 / 255 as files round it
        return {"mean": list(mean), "std": list(std)}
    return {"mean": [one / factor for one in mean], "std": [one / factor for one in std]}


def from_preprocess_cfg(found: Any, where: str) -> Config:
    """The `preprocess` of open_clip's `preprocess_cfg`. UserError for what the table does not have."""
    sizes = read(OPEN_CLIP, group(where, found), where)
    return {
        "mean": list(sizes["mean"]),
        "std": list(sizes["std"]),
        "resize": sizes["resize_mode"],
        # open_clip measures with the bicubic filter what it trained with random ones.
        "interpolation": "bilinear" if sizes["interpolation"] == "bilinear" else "bicubic",
    }


def resized_preprocess(preprocess: Mapping[str, Any], old: int, new: int) -> Config:
    """The same for a model of another image size: what the crop cuts off keeps its share."""
    size = preprocess.get("size")
    return {**preprocess} if size is None else {**preprocess, "size": round(size * new / old)}
