"""Captions a second of CLIP's tokenizers on one core: ours, open_clip's and Hugging Face's, interleaved in one run.

    python benchmarks/tokenizer.py --vocabulary bpe_simple_vocab_16e6.txt.gz --out benchmarks/results/tokenizer_cpu.json

Every caption is new: a repeat has its own captions, and ours starts each with an empty table. The captions are
templates of 8 to 20 words, drawn by Zipf's law (the n-th word 1/n as often as the first) from the words of the
vocabulary in its order, one word in thirty of them two words grown together, which no merge makes whole. "other"
captions hold at least one character that is not ASCII, or an entity. The peers are measured where they are installed
(the extra `parity`); the ids are compared.
"""

import argparse
import copy
import itertools
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data.text.bpe import BpeTokenizer

TEMPLATES = (
    "A photo of {}.",
    "{}",
    "{}, {}",
    'a picture of {} with the text "{}"',
    "{} - {} | stock photo",
    "{} ({} x {}), it's {}",
    "The {}, 1,024 x 768!",
)
MARKS = ("café", "’s", "–", "“new”", "Zürich", "naïve", "😀", "日本", "привет", "&amp;", "€5", "…")
PACKAGES = ("open_clip_torch", "transformers", "tokenizers", "ftfy", "regex", "numpy")


def main() -> int:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", required=True, help="bpe_simple_vocab_16e6.txt.gz, or a folder with vocab.json")
    parser.add_argument("--out", type=Path, help="where to write the result (JSON)")
    parser.add_argument(
        "--captions", type=int, default=50_000, help="captions a repeat (a tenth of them for the peers)"
    )
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    result = measure(BpeTokenizer.load(arguments.vocabulary), arguments.captions, arguments.repeats)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    return 0


def captions(tokenizer: BpeTokenizer, count: int, seed: int, other: bool = False) -> list[str]:
    """`count` distinct captions; `other`: each with a character that is not ASCII, or an entity."""
    draw = random.Random(seed)
    words = [s.removesuffix("</w>") for s in tokenizer.symbols if s.endswith("</w>")]
    words = [word for word in words if word.isascii() and word.isalpha() and len(word) > 1]
    cumulative = list(itertools.accumulate(1 / n for n in range(1, len(words) + 1)))
    found: dict[str, None] = {}
    while len(found) < count:
        chosen = draw.choices(words, cum_weights=cumulative, k=draw.randint(6, 18))
        if draw.random() < len(chosen) / 30:
            chosen[0] += draw.choice(words)
        template = draw.choice(TEMPLATES)
        cuts = sorted(draw.sample(range(1, len(chosen)), template.count("{}") - 1))
        parts = [" ".join(chosen[a:b]) for a, b in itertools.pairwise([0, *cuts, len(chosen)])]
        caption = template.format(*parts)
        if other:
            at = draw.randrange(len(caption))
            caption = f"{caption[:at]}{draw.choice(MARKS)}{caption[at:]}"
        found[caption[0].upper() + caption[1:] if draw.random() < 0.5 else caption] = None
    return list(found)


def peers(tokenizer: BpeTokenizer) -> dict[str, Callable[[list[str]], np.ndarray]]:
    """The other tokenizers that are installed: captions -> ids [n, 77], padded with 0."""
    found: dict[str, Callable[[list[str]], np.ndarray]] = {}
    try:
        import torch

        # torchvision's wheel registers kernels for operators that a CPU build of torch does not declare.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from open_clip.tokenizer import SimpleTokenizer

        theirs = SimpleTokenizer()
        found["open_clip"] = lambda texts: theirs(texts).numpy()
    except ImportError:
        pass
    try:
        from transformers import CLIPTokenizer

        symbols = [*tokenizer.symbols[:-2], "<|startoftext|>", "<|endoftext|>"]
        fast: Any = CLIPTokenizer(vocab={s: i for i, s in enumerate(symbols)}, merges=list(tokenizer.merges))
        fast.pad_token = "!"

        def call(texts: list[str]) -> np.ndarray:
            return np.array(fast(texts, padding="max_length", max_length=77, truncation=True)["input_ids"])

        def bare(texts: list[str]) -> np.ndarray:
            return np.array([row.ids for row in fast._tokenizer.encode_batch_fast(texts)])

        call(["a"])  # sets truncation and padding for both
        found["transformers"], found["tokenizers"] = call, bare
    except ImportError:
        pass
    return found


def measure(tokenizer: BpeTokenizer, count: int, repeats: int) -> dict[str, Any]:
    """Captions a second, medians over the repeats, and how many captions have the same ids as ours."""
    others = peers(tokenizer)
    tokenizer.encode(["a"])
    rates: dict[str, list[float]] = {}
    same: dict[str, list[float]] = {}

    def clock(name: str, encode: Callable[[list[str]], Any], texts: list[str]) -> Any:
        began = time.perf_counter()
        rows = encode(texts)
        rates.setdefault(name, []).append(len(texts) / (time.perf_counter() - began))
        return rows

    for repeat in range(repeats):
        for kind in ("ascii", "other"):
            texts = captions(tokenizer, count, 2 * repeat + (kind == "other"), kind == "other")
            few = texts[: count // 10]
            fresh = copy.deepcopy(tokenizer)
            fresh.encode(["a"])
            rows = clock(f"ours, {kind}", lambda texts, it=fresh: it.encode(texts)["tokens"], texts)
            clock(f"ours, {kind}, a second time", lambda texts, it=fresh: it.encode(texts)["tokens"], texts)
            for name, encode in others.items():
                theirs = clock(f"{name}, {kind}", encode, few)
                same.setdefault(f"{name}, {kind}", []).append(float((theirs == rows[: len(few)]).all(1).mean()))
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    return {
        "what": "captions a second on one core, medians; every caption new and the table empty unless said",
        "captions_per_second": medians,
        "lowest_and_highest": {name: [round(min(v)), round(max(v))] for name, v in rates.items()},
        "times_as_fast": {n: round(medians[f"ours, {n.split(', ')[1]}"] / medians[n], 1) for n in same},
        "share_with_the_same_ids": {name: round(statistics.mean(values), 4) for name, values in same.items()},
        "captions": count,
        "repeats": repeats,
        "mean_tokens": round(float(tokenizer.encode(captions(tokenizer, 2000, 0))["length"].mean()), 1),
        "machine": {"cores_used": 1, "processor": processor(), "python": platform.python_version()},
        "versions": {name: found for name in PACKAGES if (found := installed(name))},
    }


def installed(name: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name as Linux gives it, or the architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    raise SystemExit(main())
