"""LoRA files written as PEFT and diffusers have them.

    save_lora("mine.safetensors", {"unet": lora}, unet=unet.config)    # adapters of `diffusion_jax.train.lora`

What `lora.load_lora` has read is written as it was, bit for bit.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.convert.files import in_reach, staged, write_tensors
from diffusion_jax.convert.lora import HEADER, Adapter, Config, as_wide, given
from diffusion_jax.convert.lora_names import COMPONENTS, TEXT, Place, places
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["save_lora"]


def save_lora(
    path: str | Path,
    loras: Mapping[str, Params],
    *,
    unet: Config | None = None,
    text_encoder: Config | None = None,
    text_encoder_2: Config | None = None,
    linear: bool | None = None,
    dtype: str = "float32",
) -> Path:
    """Writes adapters by component, as `load_lora` gives them, to a .safetensors file as PEFT and diffusers have it.

    `linear` says how the ends of spatial transformers lie in diffusers' network (`use_linear_projection` of its config.json:
    false of Stable Diffusion 1, true of 2 and XL); it must be said where these are adapted. Every alpha and rank is told in the
    header. Returns the path. Raises UserError for adapters of what is not in the network, for shapes that do not fit, and for
    values that are not finite or not within the reach of `dtype`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(
            f"a LoRA is written to a .safetensors file, not {str(path)!r}; nearest: {f'{path}.safetensors'!r}"
        )
    configs = given(unet, text_encoder, text_encoder_2)
    tensors: dict[str, np.ndarray] = {}
    told: dict[str, Any] = {}
    for component, lora in loras.items():
        one_of("component", component, COMPONENTS)
        if component not in configs:
            raise UserError(f"adapters of {component} are given without its config, {component}=..")
        table = places(component, configs[component], linear=linear is not False)
        other = places(component, configs[component], linear=linear is not None)
        adapters: dict[str, tuple[int, float]] = {}
        for module, adapter in _modules(lora, table, component):
            if table[module] != other[module] and linear is None:
                raise UserError(
                    f"{module} is adapted: say linear=False where it is a 1x1 convolution in diffusers' network "
                    "(use_linear_projection false, Stable Diffusion 1), else linear=True"
                )
            tensors[f"{component}.{module}.lora_A.weight"] = _there(adapter["A"], table[module].shape)
            tensors[f"{component}.{module}.lora_B.weight"] = _there(adapter["B"], table[module].shape)
            adapters[module] = (adapter["A"].shape[-1], float(adapter["alpha"]))
            if not math.isfinite(adapters[module][1]):
                raise UserError(f"{module} has alpha {adapters[module][1]}, which is not finite")
        if not adapters:
            raise UserError(f"there are no adapters of {component} to write")
        told |= {f"{component}.{field}": value for field, value in _peft(component, adapters).items()}
    if not tensors:
        raise UserError("there are no adapters to write")
    header = {HEADER: json.dumps(told, indent=2, sort_keys=True)}
    with staged(path, folder=False) as file:
        write_tensors(file, in_reach(tensors, dtype), header)
    return path


def _there(half: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(as_wide(half.transpose((1, 0) if half.ndim == 2 else (3, 2, 0, 1)), len(shape)))


def _modules(lora: Params, table: Mapping[str, Place], component: str) -> Iterator[tuple[str, Adapter]]:
    """(name of a weight, its adapter) for every adapter of a tree. UserError for those that fit no weight."""
    names = {(place.layer, place.part, place.index): module for module, place in table.items()}
    parts: dict[str, list[str | None]] = {}
    sizes: Counter[str] = Counter()
    for place in table.values():
        known = parts.setdefault(place.layer, [])
        known += [] if place.part in known else [place.part]
        sizes[place.layer] += place.index is not None and place.part == known[0]

    def at(path: str, node: Any) -> Iterator[tuple[str, str | None, int | None, Adapter]]:
        if path not in parts:
            if not isinstance(node, dict):
                raise UserError(f"{path!r} is in no layer of {component} that a file can adapt")
            for name, value in node.items():
                yield from at(f"{path}/{name}" if path else name, value)
        else:
            for part, index, adapter in _adapters(node, parts[path], sizes[path], f"{component}: {path}"):
                yield path, part, index, adapter

    for layer, part, index, adapter in at("", lora):
        module = names[layer, part, index]
        a, b, shape = adapter["A"], adapter["B"], table[module].shape
        inside = (*shape[2:], shape[1]) if a.ndim == 4 else shape[1:2]
        if a.shape[:-1] != inside or b.shape[-1] != shape[0] or a.shape[-1] != b.shape[-2] or set(b.shape[:-2]) - {1}:
            raise UserError(f"{module}: A {list(a.shape)} and B {list(b.shape)} do not fit the weight {list(shape)}")
        yield module, adapter


def _adapters(
    node: Params, parts: Sequence[str | None], size: int, where: str
) -> Iterator[tuple[str | None, int | None, Adapter]]:
    """(part, layer of the stack, adapter) of what lies at a layer."""
    if not isinstance(node, dict) or not node:
        raise UserError(f"{where} holds no adapter")
    rows: dict[int | None, Adapter]
    if "A" in node:
        whole = _checked(node, (size,) if size else (), where)
        rows = {i: {name: half[i] for name, half in whole.items()} for i in range(size)} if size else {None: whole}
    elif all(name.isdigit() for name in node):
        rows = {int(name): _checked(value, (), f"{where}/{name}") for name, value in node.items()}
    else:
        for name, value in node.items():
            if name not in parts:
                raise UserError(
                    f"{where}/{name} is no part of the layer; its parts are {', '.join(filter(None, parts)) or 'none'}"
                )
            yield from _adapters(value, [name], size, f"{where}/{name}")
        return
    for index, row in rows.items():
        if index is not None and index >= size:
            raise UserError(f"{where}/{index}: the layers there are {size}")
        # One adapter of a joined kernel is one of each part, with the same A.
        for part, b in zip(parts, np.split(row["B"], len(parts), axis=-1)):
            yield part, index, row | {"B": b}


def _checked(node: Any, stack: tuple[int, ...], where: str) -> Adapter:
    if not isinstance(node, dict) or node.keys() != {"A", "B", "alpha"}:
        raise UserError(
            f"{where} is no adapter: it holds {', '.join(node) if isinstance(node, dict) else 'an array'}, not A, B, alpha"
        )
    made = {name: np.asarray(leaf) for name, leaf in node.items()}
    if made["alpha"].shape != stack or any(made[name].shape[: len(stack)] != stack for name in "AB"):
        told = ", ".join(f"{name} {list(leaf.shape)}" for name, leaf in made.items())
        raise UserError(f"{where} has {told}; the layers there are {stack[0] if stack else 'not stacked'}")
    return made


def _peft(component: str, adapters: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """PEFT's settings of adapters, (rank, alpha) by module: the usual values, and patterns for what has others."""
    rank = Counter(rank for rank, _ in adapters.values()).most_common(1)[0][0]
    alpha = Counter(alpha for _, alpha in adapters.values()).most_common(1)[0][0]
    # transformers has its text towers with and without the prefix; "^" keeps a U-Net's name from being another's end.
    names = {module: module.removeprefix(TEXT) for module in adapters}
    start = "^" if component == "unet" else ""
    return {
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "rank_pattern": {start + names[m]: r for m, (r, _) in adapters.items() if r != rank},
        "alpha_pattern": {start + names[m]: a for m, (_, a) in adapters.items() if a != alpha},
        "target_modules": sorted(names.values()),
    }
