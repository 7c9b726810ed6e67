"""unCLIP (DALL-E 2, arXiv 2204.06125): the image tower of a CLIP inverted, and what one can do in its space.

    unclip = load_unclip("runs/digits/diffusion", prior="runs/digits/prior")
    images = unclip.generate(["a bold seven"], seed=0)                # text -> embedding -> picture, [1, 8, 8, 1] in [-1, 1]
    others = unclip.variations(images, 4)                             # what the embedding leaves open is drawn anew

A **prior** draws the embedding z of a picture from a text (section 2.2), a **decoder** draws a picture from z and, where it is
told one, the text (section 2.1), **upsamplers** enlarge it. A picture is the pair (z, x_T): its embedding, and the noise that
the decoder's ODE turns into it under z (section 3), found by DDIM inversion. Variations keep both and step with eta > 0
(section 3.1); interpolations slerp z from one picture to another (3.2); text diffs rotate z towards the difference of two
captions (3.3).

The stages are runs (`unclip_runs`), or whatever does what `stages` says. Embeddings are vectors [d], of a length that is the
stages' own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.pipelines.components import Components
from diffusion_jax.pipelines.stages import Decoder, Prior, Upsampler
from diffusion_jax.sampling import initial_noise, interpolate, slerp
from diffusion_jax.typing import UserError, texts_of, whole_number

__all__ = ["UnCLIP", "best", "evenly", "rotated", "stage_seed"]

Options = Mapping[str, Any]
NONE: Options = MappingProxyType({})
DENSER = 4
"""How many times as many pictures an even interpolation draws as it gives."""
PRIOR, DECODER, UPSAMPLER = 1, 0, 2
"""What the seed of each stage is set apart by; the upsamplers count on from theirs."""


def stage_seed(seed: int, stage: int) -> int:
    """The seed of a stage, apart from the others': two networks are not to begin with the same numbers."""
    return (seed + stage * 0x9E3779B1) % 2**32


def best(embeddings: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Of candidates [n, k, d] the place [n] of the one with the largest cosine to a vector each, [n, d] (section 2.2)."""
    along = np.einsum("nkd,nd->nk", embeddings, towards)
    return np.argmax(along / np.maximum(np.linalg.norm(embeddings, axis=-1), 1e-12), axis=1)


def rotated(embeddings: np.ndarray, differences: np.ndarray, theta: float) -> np.ndarray:
    """Embeddings [n, d] turned towards differences [n, d] by `theta` in [0, 1] of the angle between them, lengths kept.

    The text diffs of section 3.3: slerp(z, z_d, theta) with z_d of the length of z.
    """
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    towards = differences / np.maximum(np.linalg.norm(differences, axis=1, keepdims=True), 1e-12) * length
    return np.asarray(slerp(jnp.asarray(embeddings), jnp.asarray(towards, embeddings.dtype), theta))


def _one_a_picture(what: str, given: str | Sequence[str], count: int) -> list[str]:
    """`count` texts, of one or of as many. UserError for another number."""
    texts = texts_of(what, given)
    if len(texts) not in (1, count):
        raise UserError(f"{what} has {len(texts)} texts for {count} pictures: give one, or one a picture")
    return texts * count if len(texts) == 1 else texts


def evenly(embeddings: np.ndarray, count: int) -> np.ndarray:
    """Of places on a way, by their embeddings [m, d] in order, the `count` nearest to equal lengths of it, ends included."""
    lengths = np.linalg.norm(np.diff(embeddings, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths, dtype=np.float64)])
    return np.abs(along[None] - np.linspace(0.0, along[-1], count)[:, None]).argmin(axis=1)


def _between(ends: np.ndarray, count: int) -> np.ndarray:
    """[count, ...] along the great circle between two arrays [2, ...]."""
    first, second = jnp.asarray(ends)
    return np.asarray(interpolate(first, second, count))


@dataclasses.dataclass(frozen=True, eq=False)
class UnCLIP:
    """The stages, ready for what people do with them. Without a `prior` the text's own embedding is decoded.

    Options of the stages are keywords of their `draw`, those of `DiffusionRun.generate` for runs: {"num_steps": 25,
    "guidance_scale": 2.0}. Picture i of a call is a function of its seed and of `start` + i. All pictures are float32
    [n, h, w, c] in [-1, 1]; what is asked for may be anything that the decoder takes for a picture.
    """

    decoder: Decoder
    prior: Prior | None = None
    upsamplers: tuple[Upsampler, ...] = ()

    def embeddings(
        self,
        prompts: str | Sequence[str],
        *,
        candidates: int = 2,
        seed: int = 0,
        start: int = 0,
        options: Options = NONE,
    ) -> np.ndarray:
        """An embedding a prompt, [n, d]: of `candidates` that the prior draws the one nearest to the text's (section 2.2)."""
        texts, count = texts_of("prompts", prompts), whole_number("candidates", candidates, 1)
        if self.prior is None:
            return self.decoder.texts(texts)
        repeated = [text for text in texts for _ in range(count)]
        found = self.prior.draw(repeated, seed=stage_seed(seed, PRIOR), start=start * count, **options)
        if count == 1:
            return found
        found = found.reshape(len(texts), count, -1)
        return found[np.arange(len(texts)), best(found, self.decoder.texts(texts))]

    def decode(
        self,
        embeddings: np.ndarray,
        prompts: str | Sequence[str] | None = None,
        *,
        seed: int = 0,
        start: int = 0,
        options: Options = NONE,
        enlarge: bool = True,
        upsampling: Options = NONE,
    ) -> np.ndarray:
        """A picture an embedding [n, d], by the decoder and the upsamplers; told a prompt each, one for all, or none."""
        count = len(embeddings)
        texts = None if prompts is None else texts_of("prompts", prompts)
        if texts is not None and len(texts) not in (1, count):
            raise UserError(f"prompts are {len(texts)} for {count} embeddings: give one, or one each")
        told = None if texts is None else texts * (count if len(texts) == 1 else 1)
        images = self.decoder.draw(embeddings, told, seed=stage_seed(seed, DECODER), start=start, **options)
        return self._enlarged(images, seed, start, upsampling) if enlarge else images

    def _enlarged(self, images: np.ndarray, seed: int, start: int, upsampling: Options) -> np.ndarray:
        for place, upsampler in enumerate(self.upsamplers):
            images = upsampler.draw(images, seed=stage_seed(seed, UPSAMPLER + place), start=start, **upsampling)
        return images

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        candidates: int = 2,
        told: bool = True,
        seed: int = 0,
        start: int = 0,
        prior: Options = NONE,
        options: Options = NONE,
        enlarge: bool = True,
        upsampling: Options = NONE,
    ) -> np.ndarray:
        """A picture a prompt: the prior's embedding decoded, with the prompt beside it where `told`."""
        texts = texts_of("prompts", prompts)
        found = self.embeddings(texts, candidates=candidates, seed=seed, start=start, options=prior)
        return self.decode(
            found, texts if told else None, seed=seed, start=start, options=options, enlarge=enlarge, upsampling=upsampling
        )  # fmt: skip

    def _noise(self, pictures: np.ndarray, z: np.ndarray, noise: np.ndarray | None, inversion: Options) -> np.ndarray:
        """The pictures' own noise: as given, or inverted."""
        if noise is None:
            return self.decoder.invert(pictures, z, **inversion)
        if inversion:
            raise UserError("noise is given, so that nothing is inverted: leave out inversion, or noise")
        wanted = (len(pictures), *self.decoder.shape)
        if np.shape(noise) != wanted:
            raise UserError(
                f"noise has shape {np.shape(noise)}: it is {wanted}, what decoder.invert made of the pictures"
            )
        return np.asarray(noise)

    def variations(
        self,
        images: Any,
        count: int = 4,
        *,
        eta: float = 1.0,
        inverted: bool = True,
        noise: np.ndarray | None = None,
        seed: int = 0,
        options: Options = NONE,
        inversion: Options = NONE,
        enlarge: bool = True,
        upsampling: Options = NONE,
    ) -> np.ndarray:
        """[n, count, h, w, c]: pictures of the embeddings of `images`, what these leave open drawn anew (section 3.1).

        From the noise of each picture by DDIM of `eta`, 0 for the picture itself and 1 for the most variety, or, not
        `inverted`, from noise of their own. `noise` [n, h, w, c] is what `decoder.invert` made of the pictures before.
        """
        count = whole_number("count", count, 1)
        if noise is not None and not inverted:
            raise UserError("noise is that of inverted pictures, and inverted is False: leave out one of them")
        pictures, z = self.decoder.pictures(images), self.decoder.embed(images)
        chosen: dict[str, Any] = {**options, "solver": "ddim", "eta": eta} if inverted else dict(options)
        if inverted:
            chosen["noise"] = np.repeat(self._noise(pictures, z, noise, inversion), count, axis=0)
        drawn = self.decode(
            np.repeat(z, count, axis=0), seed=seed, options=chosen, enlarge=enlarge, upsampling=upsampling
        )
        return drawn.reshape(len(pictures), count, *drawn.shape[1:])

    def interpolate(
        self,
        first: Any,
        second: Any,
        count: int = 8,
        *,
        even: bool = False,
        fixed: bool = False,
        seed: int = 0,
        options: Options = NONE,
        inversion: Options = NONE,
        enlarge: bool = True,
        upsampling: Options = NONE,
    ) -> np.ndarray:
        """[count, h, w, c] from one picture to another: z and its noise along great circles (section 3.2).

        At equal angles; or with `even` at nearly equal distances of what CLIP sees in the pictures, of four times as many that
        are drawn: where one thing turns into another, equal angles jump. With `fixed` all begin with the noise that the seed
        draws.
        """
        pictures = np.concatenate([self.decoder.pictures(first), self.decoder.pictures(second)])
        if len(pictures) != 2:
            raise UserError(f"interpolation goes from one picture to one, not among {len(pictures)}")
        z = np.concatenate([self.decoder.embed(first), self.decoder.embed(second)])
        count = whole_number("count", count, 2)
        drawn = DENSER * (count - 1) + 1 if even else count
        if fixed:
            noise = np.repeat(initial_noise(jax.random.key(seed), (1, *self.decoder.shape)), drawn, axis=0)
        else:
            noise = _between(self.decoder.invert(pictures, z, **inversion), drawn)
        way = self.decode(
            _between(z, drawn), seed=seed, options={**options, "solver": "ddim", "noise": noise}, enlarge=False
        )
        if even:
            way = way[evenly(self.decoder.embed(way), count)]
        return self._enlarged(way, seed, 0, upsampling) if enlarge else way

    def text_diffs(
        self,
        images: Any,
        source: str | Sequence[str],
        target: str | Sequence[str],
        thetas: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4),
        *,
        noise: np.ndarray | None = None,
        seed: int = 0,
        options: Options = NONE,
        inversion: Options = NONE,
        enlarge: bool = True,
        upsampling: Options = NONE,
    ) -> np.ndarray:
        """[n, thetas, h, w, c]: pictures moved from what `source` says towards what `target` says (section 3.3).

        Both are one text, or one a picture. z is rotated towards the difference of the two texts' embeddings by each theta in
        [0, 1] of the angle between them; the noise is the picture's own, `noise` [n, h, w, c] where it was inverted before.
        Usual thetas end at .25 to .5.
        """
        angles = [float(theta) for theta in thetas]
        if not angles or not all(0 <= theta <= 1 for theta in angles):
            raise UserError(f"thetas {list(thetas)} are not numbers from 0 to 1; usual end at 0.25 to 0.5")
        pictures, z = self.decoder.pictures(images), self.decoder.embed(images)
        pairs = _one_a_picture("source", source, len(z)), _one_a_picture("target", target, len(z))
        told = sorted({*pairs[0], *pairs[1]})
        texts = dict(zip(told, self.decoder.texts(told), strict=True))
        from_text, to_text = (np.stack([texts[text] / np.linalg.norm(texts[text]) for text in side]) for side in pairs)
        for one, other, a, b in zip(*pairs, from_text, to_text, strict=True):
            if np.allclose(a, b):
                raise UserError(
                    f"source {one!r} and target {other!r} say the same to the encoder: there is no difference"
                )
        difference = to_text - from_text
        turned = np.stack([rotated(z, difference, theta) for theta in angles], axis=1)
        start = np.repeat(self._noise(pictures, z, noise, inversion), len(angles), axis=0)
        chosen = {**options, "solver": "ddim", "noise": start}
        drawn = self.decode(
            turned.reshape(-1, z.shape[1]), seed=seed, options=chosen, enlarge=enlarge, upsampling=upsampling
        )
        return drawn.reshape(len(pictures), len(angles), *drawn.shape[1:])

    def components(
        self,
        images: Any,
        space: Components,
        counts: Sequence[int],
        *,
        seed: int = 0,
        options: Options = NONE,
        enlarge: bool = True,
        upsampling: Options = NONE,
    ) -> np.ndarray:
        """[n, counts, h, w, c]: pictures decoded from so many principal components of their embeddings (section 5, figure 7).

        The noise of a picture is the same for all its counts.
        """
        z = self.decoder.embed(images)
        kept = np.stack([space.project(z, count) for count in counts], axis=1)
        rows = [
            self.decode(part, seed=seed, options=options, enlarge=enlarge, upsampling=upsampling)
            for part in np.moveaxis(kept, 1, 0)
        ]
        return np.stack(rows, axis=1)

    def rerank(self, prompts: str | Sequence[str], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the places [n, k] of pictures [n, k, h, w, c] by falling cosine to their prompts, those cosines).

        By the CLIP of the decoder.
        """
        texts = texts_of("prompts", prompts)
        if np.ndim(images) != 5 or len(images) != len(texts):
            raise UserError(
                f"re-ranked are pictures [{len(texts)}, k, h, w, c] of {len(texts)} prompts, not {np.shape(images)}"
            )
        n, k = images.shape[:2]
        z = self.decoder.embed(images.reshape(n * k, *images.shape[2:])).reshape(n, k, -1)
        towards = self.decoder.texts(texts)
        lengths = np.linalg.norm(z, axis=-1) * np.linalg.norm(towards, axis=-1)[:, None]
        cosines = np.einsum("nkd,nd->nk", z, towards) / np.maximum(lengths, 1e-12)
        order = np.argsort(-cosines, axis=1, kind="stable")
        return order, np.take_along_axis(cosines, order, axis=1)
