"""LoRA files read, without PyTorch: PEFT's and diffusers', old and new, and kohya's. `lora_save` writes.

    lora = load_lora("style.safetensors", unet=unet.config, text_encoder=clip_config)    # {"unet": .., "text_encoder": ..}
    params = merge_lora(unet.params, lora["unet"], scale=0.8)                            # diffusion_jax.train.lora

The trees are those of `diffusion_jax.train.lora`. A file's factors A [r, in] and B [out, r] lie here transposed, [in, r] and
[r, out], those of convolutions as [rows, columns, in, r] and [1, 1, r, out]. alpha comes from a file's `.alpha` tensors, else
from the settings of PEFT in its header (or in adapter_config.json beside it), else it is the rank. Half-precision weights are
read as float32, which holds them exactly.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.convert.entries import _folded, _listed
from diffusion_jax.convert.files import find, read_header, read_json, read_tensors
from diffusion_jax.convert.lora_names import COMPONENTS, TEXT, Place, kohya, named, other_kind, places
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["HEADER", "Adapter", "Config", "as_wide", "given", "load_lora"]

HEADER = "lora_adapter_metadata"
WEIGHTS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
Config = Mapping[str, Any]
Settings = Mapping[str, Any]
Adapter = dict[str, np.ndarray]


def load_lora(
    path: str | Path,
    *,
    unet: Config | None = None,
    text_encoder: Config | None = None,
    text_encoder_2: Config | None = None,
    without: Sequence[str] = (),
) -> dict[str, Params]:
    """The adapters in a file or folder, a tree for each component that has some; float32 NumPy arrays.

    The configs are those of the networks that they adapt, as `load_unet` and `load_clip` give them (`unet.config` of
    `load_pretrained`). `without` names components that the file may adapt as well and that are left out.

    Raises UserError, one line: for a file that is no safetensors or is damaged, for adapters of another kind (LoHa, LoKr,
    DoRA), of a component that neither has a config here nor is left out, and for names that are unknown or fit no weight of
    the network, halves that are missing, shapes and ranks that disagree (the first of each).
    """
    configs = given(unet, text_encoder, text_encoder_2)
    for component in without:
        one_of("without", component, COMPONENTS)
    path = Path(path)
    file = find(path, WEIGHTS)
    where = repr(str(file))
    if file.suffix != ".safetensors":
        raise UserError(f"{where} ends in {file.suffix!r}; a LoRA is read from .safetensors")
    tensors = read_tensors(file)
    _refuse_others(tensors, where)
    found, errors = _placed(tensors, configs, without, where)
    settings = _settings(file)
    made: dict[str, dict[Place, Adapter]] = {}
    for component, adapters in found.items():
        for place, (prefix, module, halves) in adapters.items():
            adapter = _adapter(place, module, halves, errors)
            if adapter is not None:
                _with_alpha(adapter, halves.get("alpha"), settings.get(prefix), module, errors, where)
                made.setdefault(component, {})[place] = adapter
    if told := [f"{len(names)} {what}: {_listed(_folded(names))}" for what, names in errors.items() if names]:
        guess = ": it may be of another model" if len(errors.get("misshapen", ())) > 1 else ""
        raise UserError(f"{where} does not fit{guess}: {'; '.join(told)}")
    if not made:
        raise UserError(
            f"{where} holds no adapters of {', '.join(configs) or 'anything: give the config of a component'}"
        )
    return {component: _tree(adapters, places(component, configs[component])) for component, adapters in made.items()}


def given(unet: Config | None, text_encoder: Config | None, text_encoder_2: Config | None) -> dict[str, Config]:
    """The configs that there are, by component."""
    configs = zip(COMPONENTS, (unet, text_encoder, text_encoder_2))
    return {component: config for component, config in configs if config is not None}


def _refuse_others(tensors: Mapping[str, np.ndarray], where: str) -> None:
    kinds: dict[str, list[str]] = {}
    for name in tensors:
        if kind := other_kind(name):
            kinds.setdefault(kind, []).append(name)
    if kinds:
        told = "; ".join(f"{kind}: {_listed(_folded(names))}" for kind, names in kinds.items())
        raise UserError(f"{where} holds adapters that are not read here, {told}; read is LoRA of two factors")


Placed = dict[Place, tuple[str | None, str, dict[str, np.ndarray]]]


def _placed(
    tensors: Mapping[str, np.ndarray], configs: Mapping[str, Config], without: Sequence[str], where: str
) -> tuple[dict[str, Placed], dict[str, list[str]]]:
    """By component and place: (the prefix of its names, the module's name, its halves); and the names that have none."""
    tables = {component: places(component, config) for component, config in configs.items()}
    flat = {component: kohya(component, config) for component, config in configs.items()}
    errors: dict[str, list[str]] = {"not of LoRA": [], "of no weight of the network": [], "there twice": []}
    found: dict[str, Placed] = {}
    strange: dict[str, int] = {}
    for name, value in tensors.items():
        said = named(name)
        if said is None:
            errors["not of LoRA"].append(name)
            continue
        if said.component is not None and said.component not in configs:
            if said.component not in without:
                strange[said.component] = strange.get(said.component, 0) + 1
            continue
        hits = []
        for component in [said.component] if said.component else list(configs):
            table = (flat if said.flat else tables)[component]
            if (place := table.get(said.module) or table.get(f"{TEXT}{said.module}")) is not None:
                hits.append((component, place))
        if len(hits) != 1:
            what = "that do not say of which component they are" if hits else "of no weight of the network"
            errors.setdefault(what, []).append(name)
            continue
        component, place = hits[0]
        halves = found.setdefault(component, {}).setdefault(place, (said.component, said.module, {}))[2]
        if said.half in halves:
            errors["there twice"].append(name)
        halves[said.half] = value
    if strange:
        component, count = next(iter(strange.items()))
        raise UserError(
            f"{where} adapts {component} too ({count} tensors): give its config, {component}=.., or leave it out, "
            f"without=({component!r},)"
        )
    return found, errors


def _adapter(
    place: Place, module: str, halves: Mapping[str, np.ndarray], errors: dict[str, list[str]]
) -> Adapter | None:
    """A and B as they lie here, or None with what is wrong in `errors`."""
    if lacking := [half for half in "AB" if half not in halves]:
        errors.setdefault("without its other half", []).append(f"{module} (no {lacking[0]})")
        return None
    a, b = (as_wide(halves[half], len(place.shape)) for half in "AB")
    fits = a.ndim == b.ndim == len(place.shape) and a.shape[1:] == place.shape[1:]
    if not fits or b.shape[0] != place.shape[0] or set(b.shape[2:]) - {1}:
        errors.setdefault("misshapen", []).append(
            f"{module} A {list(a.shape)}, B {list(b.shape)} (of a weight {list(place.shape)})"
        )
        return None
    if a.shape[0] != b.shape[1]:
        errors.setdefault("of ranks that disagree", []).append(f"{module} (A {a.shape[0]}, B {b.shape[1]})")
        return None
    order = (1, 0) if a.ndim == 2 else (2, 3, 1, 0)
    return {name: np.ascontiguousarray(half.transpose(order), np.float32) for name, half in (("A", a), ("B", b))}


def as_wide(value: np.ndarray, ndim: int) -> np.ndarray:
    """A linear map as a 1x1 convolution, or such a convolution as a linear map, where the other is wanted."""
    if value.ndim == 4 and ndim == 2 and value.shape[2:] == (1, 1):
        return value[:, :, 0, 0]
    return value[:, :, None, None] if value.ndim == 2 and ndim == 4 else value


def _with_alpha(
    adapter: Adapter,
    tensor: np.ndarray | None,
    settings: Settings | None,
    module: str,
    errors: dict[str, list[str]],
    where: str,
) -> None:
    """Sets the alpha of an adapter: its tensor, PEFT's settings, or its rank."""
    rank = adapter["A"].shape[-1]
    alpha = float(rank) if settings is None else _told_alpha(settings, module, rank, errors, where)
    if tensor is not None:
        if tensor.size != 1:
            errors.setdefault("misshapen", []).append(f"{module} alpha {list(tensor.shape)}")
            return
        if settings is not None and float(tensor.reshape(())) != alpha:
            errors.setdefault("of two alphas", []).append(f"{module} ({tensor.reshape(())} and {alpha:g})")
        alpha = float(tensor.reshape(()))
    if not math.isfinite(alpha):
        errors.setdefault("of an alpha that is not finite", []).append(module)
    adapter["alpha"] = np.array(alpha, np.float32)


def _settings(file: Path) -> dict[str | None, Settings]:
    """PEFT's settings by the prefix of the component's names, None for names without one."""
    header = read_header(file).get(HEADER)
    beside = file.parent / "adapter_config.json"
    if header is not None:
        try:
            told = json.loads(header)
        except ValueError as error:
            raise UserError(f"{str(file)!r}: {HEADER} in its header is not JSON: {error}") from error
        if not isinstance(told, dict):
            raise UserError(f"{str(file)!r}: {HEADER} in its header holds no JSON object")
    elif file.name == WEIGHTS[1] and beside.is_file():
        told = read_json(beside)
    else:
        return {}
    found: dict[str | None, dict[str, Any]] = {}
    for key, value in told.items():
        prefix, _, field = key.partition(".")
        if prefix in COMPONENTS and field:
            found.setdefault(prefix, {})[field] = value
        else:
            found.setdefault(None, {})[key] = value
    return dict(found)


def _told_alpha(settings: Settings, module: str, rank: int, errors: dict[str, list[str]], where: str) -> float:
    """alpha of a module by PEFT's settings, those that an adapter of the plain kind has."""
    for field in ("use_dora", "lora_bias", "fan_in_fan_out"):
        if settings.get(field):
            raise UserError(f"{where} says {field} true, which is not read here; read is LoRA of two factors alone")
    start = settings.get("init_lora_weights", True)
    if start not in (True, False, None, "gaussian", "eva", "orthogonal"):
        raise UserError(
            f"{where} says init_lora_weights {start!r}: its adapters are of other weights than the network's own"
        )
    try:
        # What is not said is as PEFT has it by default, 8 both.
        told = _by_pattern(settings.get("rank_pattern"), module, settings.get("r", 8))
        alpha = float(_by_pattern(settings.get("alpha_pattern"), module, settings.get("lora_alpha", 8)))
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise UserError(f"{where}: PEFT's settings of {module} are not readable: {error}") from error
    if told != rank:
        errors.setdefault("of ranks that disagree", []).append(f"{module} ({rank}, and its settings say {told})")
    return alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, usual: Any) -> Any:
    """The value of the first pattern that is the module's name or its end, as PEFT reads them."""
    for pattern, value in (patterns or {}).items():
        for name in (module, module.removeprefix(TEXT)):
            if re.match(rf"(.*\.)?({pattern})$", name):
                return value
    return usual


def _tree(adapters: Mapping[Place, Adapter], table: Mapping[str, Place]) -> Params:
    """The tree: layers of a stack together where all have an adapter of one rank, else below their numbers."""
    sizes = Counter((place.layer, place.part) for place in table.values())
    layers: dict[tuple[str, str | None], dict[int | None, Adapter]] = {}
    for place, adapter in adapters.items():
        layers.setdefault((place.layer, place.part), {})[place.index] = adapter
    tree: Params = {}
    for (layer, part), group in layers.items():
        node: Params
        if None in group:
            node = dict(group[None])
        elif len(group) == sizes[layer, part] and len({adapter["A"].shape for adapter in group.values()}) == 1:
            rows = [group[i] for i in range(len(group))]
            node = {name: np.stack([adapter[name] for adapter in rows]) for name in ("A", "B", "alpha")}
        else:
            node = {str(i): dict(adapter) for i, adapter in group.items()}
        *above, last = (*layer.split("/"), part) if part else layer.split("/")
        at = tree
        for folder in above:
            at = at.setdefault(folder, {})
        at[last] = node
    return tree
