"""Several conditions at once, each with its own null and its own drop rate, and one at which all are dropped together.

Dropped apart, the network learns every field that leaves some out; dropped together, the unconditional one: with drop rates
p_1 .. p_n apart and p together that is p + (1 - p) p_1 ... p_n of the examples (arXiv 2211.09800, section 3.2.1, has such a
choice for a picture and a text). A request says what it asks by name, and what it leaves out is that part's null.

The parts share what they are asked by: a picture asked for is given to each that asks for a picture.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.systems.diffusion.conditions.condition import SHOWN, Condition, Pick, Plain, asks_of
from diffusion_jax.systems.diffusion.loss import drop_condition
from diffusion_jax.typing import Array, PyTree, Source, UserError, one_of

__all__ = ["Several"]


@dataclasses.dataclass(frozen=True, eq=False)
class Several(Plain):
    """`parts` by name, in the order of their names. UserError for fewer than one, and for two that give the same entry."""

    parts: Mapping[str, Condition]
    drop: float = 0.0

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError(
                "condition 'several' has no parts: give condition.parts = {'label': {'name': 'label'}, ...}"
            )
        object.__setattr__(self, "parts", dict(sorted(self.parts.items())))
        whose: dict[str, str] = {}
        for name, part in self.parts.items():
            for entry in part.entries:
                if entry in whose:
                    raise UserError(
                        f"condition parts {whose[entry]!r} and {name!r} both give the entry {entry!r}: drop one"
                    )
                whose[entry] = name

    @functools.cached_property
    def entries(self) -> Mapping[str, tuple[int, ...]]:
        """Of all parts."""
        return {entry: shape for part in self.parts.values() for entry, shape in part.entries.items()}

    @property
    def counts(self) -> Mapping[str, int]:  # type: ignore[override]
        """Of all parts."""
        return {entry: count for part in self.parts.values() for entry, count in part.counts.items()}

    @functools.cached_property
    def asks(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of all parts, each once."""
        return tuple(dict.fromkeys(ask for part in self.parts.values() for ask in asks_of(part)))

    @functools.cached_property
    def null(self) -> PyTree:  # type: ignore[override]
        """Of all parts."""
        return {entry: leaf for part in self.parts.values() for entry, leaf in (part.null or {}).items()}

    @property
    def guides(self) -> bool:
        """Whether a part does."""
        return any(part.guides for part in self.parts.values())

    @property
    def params(self) -> PyTree:  # type: ignore[override]
        """Of the parts that have them."""
        return {name: part.params for name, part in self.parts.items() if part.params is not None}

    @property
    def frozen(self) -> PyTree:  # type: ignore[override]
        """Of the parts, by name."""
        return {name: part.frozen for name, part in self.parts.items()}

    @property
    def clip(self) -> Any:
        """The CLIP of the part that reads texts. AttributeError where none does."""
        found = [part for part in self.parts.values() if "prompt" in asks_of(part) and hasattr(part, "clip")]
        if not found:
            raise AttributeError("clip")
        return found[0].clip  # type: ignore[attr-defined]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the part that is asked for one. AttributeError where none is."""
        found = [part for part in self.parts.values() if hasattr(part, "classes")]
        if not found:
            raise AttributeError("classes")
        return found[0].classes  # type: ignore[attr-defined]

    def _of(self, part: Condition, cond: PyTree) -> PyTree:
        return {entry: cond[entry] for entry in part.entries if entry in cond}

    def training(self, data: Source) -> Pick:
        """What each part picks."""
        picks = [part.training(data) for part in self.parts.values()]
        return lambda rows, rng: {entry: leaf for pick in picks for entry, leaf in (pick(rows, rng) or {}).items()}

    def made(self, frozen: PyTree, images: Array, key: Array) -> PyTree:
        """What each part makes, with a key of its own."""
        found: dict[str, Array] = {}
        for place, (name, part) in enumerate(self.parts.items()):
            found |= part.made(frozen[name], images, jax.random.fold_in(key, place))
        return found

    def held_out(self, data: Source) -> PyTree:
        """Of each part."""
        return {entry: leaf for part in self.parts.values() for entry, leaf in (part.held_out(data) or {}).items()}

    def dropped(self, cond: PyTree, null: PyTree, key: Array) -> PyTree:
        """Each part by its own rate and chance, then all together."""
        found = dict(cond)
        for place, part in enumerate(self.parts.values()):
            mine = self._of(part, cond)
            found |= part.dropped(mine, self._of(part, null), jax.random.fold_in(key, place)) if mine else {}
        return drop_condition(found, null, self.drop, jax.random.fold_in(key, len(self.parts)))

    def drawn(self, cond: PyTree, keys: Array) -> PyTree:
        """Of each part, with keys of its own."""
        found = dict(cond)
        for place, part in enumerate(self.parts.values()):
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
            found |= part.drawn(self._of(part, cond), own) or {}
        return found

    def shown(self, data: Source, held_out: Source) -> list[Any]:
        """What each part shows, side by side."""
        rows: list[dict[str, Any]] = [{} for _ in range(SHOWN)]
        for part in self.parts.values():
            asks, requests = asks_of(part), part.shown(data, held_out)
            for row, asked in zip(rows, requests if asks else []):
                row |= {ask: value for ask, value in _by_name(asks, asked).items() if ask not in row}
        found = [row for row in rows if row] or rows
        return found if len(self.asks) > 1 else [row.get(self.asks[0]) if self.asks else None for row in found]

    def listed(self, what: str, given: Any) -> list[Any]:
        """One request {name: value} or several, a text alone as a prompt; of parts that ask one thing alone its values."""
        if len(self.asks) == 1:
            return next(part for part in self.parts.values() if asks_of(part)).listed(what, given)
        alone = isinstance(given, Mapping | str)
        found = [given] if alone else list(given) if isinstance(given, list | tuple) else []
        if not found:
            example = ", ".join(f"{ask!r}: ..." for ask in self.asks)
            raise UserError(f"{what}: the model is asked by {{{example}}}, or several of these; given {given!r:.80}")
        return [self._named(request) for request in found]

    def _named(self, request: Any) -> Mapping[str, Any]:
        """A request by name. UserError for a name that no part asks by."""
        if len(self.asks) == 1:
            return {self.asks[0]: request}
        if isinstance(request, str) and "prompt" in self.asks:
            return {"prompt": request}
        if not isinstance(request, Mapping):
            example = ", ".join(f"{ask!r}: ..." for ask in self.asks)
            raise UserError(f"a request is {{{example}}}, what is left out tells nothing; not {request!r:.80}")
        for name in request:
            one_of("request", name, self.asks)
        return request

    def request(self, requests: Sequence[Any]) -> PyTree:
        """Of each part what is asked of it, its null where that is left out."""
        named = [self._named(request) for request in requests]
        found: dict[str, np.ndarray] = {}
        for part in self.parts.values():
            asks, null = asks_of(part), part.null or {}
            told = [row for row, request in enumerate(named) if any(request.get(ask) is not None for ask in asks)]
            table = {entry: np.repeat(leaf, len(named), axis=0) for entry, leaf in null.items()}
            if told:
                asked = [_asked(asks, named[row]) for row in told]
                for entry, leaf in part.request(asked).items():
                    table[entry][told] = leaf
            elif not asks:  # it is drawn unasked
                table = part.request([None] * len(named)) or {}
            found |= table
        return found

    def fidelity(self, requests: Sequence[Any], images: np.ndarray) -> np.ndarray | None:
        """Of the part that tells pixels, where it is asked for; None where none does."""
        named = [self._named(request) for request in requests]
        for part in self.parts.values():
            asks = asks_of(part)
            told = [row for row, request in enumerate(named) if any(request.get(ask) is not None for ask in asks)]
            found = part.fidelity([_asked(asks, named[row]) for row in told], images[told]) if told else None
            if found is not None:
                every = np.full(len(named), np.nan)
                every[told] = found
                return every
        return None

    def notices(self, requests: Sequence[Any]) -> list[str]:
        """Of each part."""
        found: list[str] = []
        for part in self.parts.values():
            asks = asks_of(part)
            named = [self._named(request) for request in requests]
            asked = [_asked(asks, one) for one in named if any(one.get(ask) is not None for ask in asks)]
            found += part.notices(asked) if asked else []
        return found

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Of all parts."""
        return {file: note for part in self.parts.values() for file, note in part.notes(folder).items()}

    def agrees(self, folder: Path, anew: bool) -> None:
        """Each part's."""
        for part in self.parts.values():
            part.agrees(folder, anew)


def _by_name(asks: tuple[str, ...], asked: Any) -> Mapping[str, Any]:
    """A part's own request as one by name."""
    return {asks[0]: asked} if len(asks) == 1 else asked


def _asked(asks: tuple[str, ...], request: Mapping[str, Any]) -> Any:
    """What of a request by name is a part's."""
    mine = {ask: request[ask] for ask in asks if request.get(ask) is not None}
    return mine[asks[0]] if len(asks) == 1 else mine
