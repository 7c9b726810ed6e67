"""A published CLIP text encoder with its tokenizer, as Stable Diffusion reads it: the features of every token.

Rows are padded to the tower's context with the folder's own padding token ("<|endoftext|>" of Stable Diffusion 1 and of XL's
first encoder, "!" of 2 and of XL's second), and all of them are attended to: the padding is part of what the U-Net was trained
on. Which hidden state is read is the pipeline's to say (arXiv 2307.01952, section 2.1: XL takes the penultimate of both).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import convert
from diffusion_jax.build.networks import compute_dtype, kept
from diffusion_jax.convert.files import read_json
from diffusion_jax.data.text.bpe import BpeTokenizer
from diffusion_jax.nets import Network
from diffusion_jax.nets.text import TextTransformer
from diffusion_jax.typing import Array, Params, UserError

__all__ = ["TextEncoder", "load_text_encoder", "load_tokenizer", "load_words", "text_encoder"]

HF_SYMBOLS = {"<|startoftext|>": "<start_of_text>", "<|endoftext|>": "<end_of_text>"}
"""Names of tokens in Hugging Face's files, and the vocabulary's own; all others are alike."""


@dataclasses.dataclass(frozen=True, eq=False)
class TextEncoder:
    """A text tower, its weights, and the tokenizer whose rows it reads, padded with the id `pad`."""

    path: Path
    network: Network
    params: Params
    config: Mapping[str, Any]
    tokenizer: BpeTokenizer
    pad: int

    @property
    def width(self) -> int:
        """Features a token."""
        return int(self.config["text"]["width"])

    @property
    def layers(self) -> int:
        """Blocks of the tower."""
        return int(self.config["text"]["layers"])

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Ids int32 [n, context]: start, the words, end, and padding; what does not fit is cut before the end."""
        found = self.tokenizer.encode(texts)
        inside = np.arange(self.tokenizer.context_length)[None, :] < found["length"][:, None]
        return np.where(inside, found["tokens"], np.int32(self.pad))

    def encode(self, texts: Sequence[str], *, skip: int = 0, normed: bool = True) -> tuple[Array, Array]:
        """(features of the tokens [n, context, width], the text's projected embedding [n, d]), float32.

        The features stand `skip` blocks before the tower's end, through its last norm where `normed`. Raises UserError for a
        skip that leaves no block.
        """
        if not 0 <= skip < self.layers:
            near = min(max(skip, 0), self.layers - 1)
            raise UserError(f"skipping {skip} of the text encoder's {self.layers} blocks: 0 to {near} can be")
        tokens = self.tokens(texts)
        # Rows to the next power of two: few counts of texts are compiled.
        whole = np.resize(tokens, (1 << (len(tokens) - 1).bit_length(), tokens.shape[1]))
        states, embedding = _encoded(self.network, self.params, jnp.asarray(whole), skip, normed)
        return states[: len(tokens)], embedding[: len(tokens)]

    def explain(self, texts: Sequence[str]) -> list[str]:
        """A line for each text that is cut, or that holds the end token; an empty one is nothing to remark on here."""
        return self.tokenizer.explain([text for text in texts if text.strip()])


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _encoded(network: Network, params: Params, tokens: Array, skip: int, normed: bool) -> tuple[Array, Array]:
    out = network.apply(params, tokens)
    if skip == 0 and normed:
        found = out.tokens
    elif skip == 1 and not normed:
        found = out.penultimate
    else:
        found = network.method("states")(params, tokens)[-1 - skip]
        found = network.method("normed")(params, found) if normed else found
    return found.astype(jnp.float32), out.embedding


def load_tokenizer(folder: Path, context_length: int) -> tuple[BpeTokenizer, int]:
    """(the tokenizer in a folder of vocab.json and merges.txt or of tokenizer.json, the id that it pads with)."""
    tokenizer = BpeTokenizer.load(folder, context_length)
    return tokenizer, _pad(folder if folder.is_dir() else folder.parent, tokenizer)


def _pad(folder: Path, tokenizer: BpeTokenizer) -> int:
    named: Any = None
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if named is None and (folder / name).is_file():
            named = read_json(folder / name).get("pad_token")
    if isinstance(named, Mapping):
        named = named.get("content")
    if named is None:
        return tokenizer.end  # what CLIP's tokenizer of transformers has where no file says it
    symbol = HF_SYMBOLS.get(str(named), str(named))
    if symbol not in tokenizer.symbols:
        raise UserError(f"{str(folder)!r}: pad_token {named!r} is not among the {tokenizer.vocabulary_size} tokens")
    return tokenizer.symbols.index(symbol)


def text_encoder(
    path: Path,
    config: Mapping[str, Any],
    params: Params,
    tokenizer: BpeTokenizer,
    pad: int,
    dtype: str = "auto",
    param_dtype: str = "float32",
) -> TextEncoder:
    """The encoder of what `convert.load_clip` read. UserError where there is no text tower, and for another vocabulary."""
    sizes = _sizes(path, config)
    _check_words(path, sizes, tokenizer)
    how = {"dtype": compute_dtype(dtype), "scan": True}
    network = Network(lambda rngs: TextTransformer(rngs, embed=config["embed"], **sizes, **how))
    return TextEncoder(path, network, kept(params["text"], param_dtype), config, tokenizer, pad)


def _sizes(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    if "text" not in config:
        raise UserError(f"{str(path)!r} holds no text tower")
    sizes: Mapping[str, Any] = config["text"]
    return sizes


def _check_words(path: Path, sizes: Mapping[str, Any], tokenizer: BpeTokenizer) -> None:
    if tokenizer.vocabulary_size > sizes["vocabulary_size"]:
        raise UserError(
            f"the tokenizer has {tokenizer.vocabulary_size} ids, the text encoder in {str(path)!r} "
            f"{sizes['vocabulary_size']}: they do not belong together"
        )


def load_words(path: Path, config: Mapping[str, Any], tokenizer: Path) -> tuple[BpeTokenizer, int]:
    """`load_tokenizer` for the text encoder of this config in `path`.

    Raises UserError as `BpeTokenizer.load`, where there is no text tower, and for more words than the encoder has.
    """
    sizes = _sizes(path, config)
    words, pad = load_tokenizer(tokenizer, sizes["context_length"])
    _check_words(path, sizes, words)
    return words, pad


def load_text_encoder(
    folder: Path,
    tokenizer: Path,
    dtype: str = "auto",
    param_dtype: str = "float32",
    *,
    words: tuple[BpeTokenizer, int] | None = None,
) -> TextEncoder:
    """The text encoder in a folder of CLIPTextModel or CLIPTextModelWithProjection, with the tokenizer in another.

    `words` is what `load_words` gave, where the tokenizer was read before. Raises UserError as `convert.load_clip` and
    `load_words`.
    """
    config, params = convert.load_clip(folder)
    tokens, pad = load_words(folder, config, tokenizer) if words is None else words
    return text_encoder(folder, config, params, tokens, pad, dtype, param_dtype)
