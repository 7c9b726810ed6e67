"""CLIP's tokenizer against open_clip's, id for id, on OpenAI's vocabulary; SigLIP's against transformers and open_clip.

OpenAI's vocabulary is read from where open_clip is installed; SigLIP's are small ones, learned here.
"""

import gzip
import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_tokenizer_golden import WORDS, hard_strings

from diffusion_jax.data.text.bpe import BpeTokenizer
from diffusion_jax.data.text.siglip_tokenizer import SiglipTokenizer

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

peers = pytest.importorskip("open_clip.tokenizer")
HARD = hard_strings(6000, seed=7)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
draw = random.Random(3)
LONG = [
    "".join(draw.choices(LETTERS, k=10_000)),
    "a" * 10_000,
    "the cat sat on the mat, " * 420,
    "日本語" * 3400,
    "👩‍👩‍👧‍👦" * 1430,
    "&amp;" * 2000,
    "caf\u00e9 " * 2000,
    "<end_of_text>" * 770,
]


@pytest.fixture(scope="module")
def ours():
    return BpeTokenizer.load(peers.default_bpe())


@pytest.fixture(scope="module")
def theirs():
    return peers.SimpleTokenizer()


def same(ours, theirs, captions):
    """How many captions were compared: every id of every one is the same."""
    encoded = ours.encode(captions)
    wanted = theirs(captions, context_length=ours.context_length).numpy()
    wrong = [c for c, a, b in zip(captions, encoded["tokens"], wanted, strict=True) if not np.array_equal(a, b)]
    assert not wrong, f"{len(wrong)} of {len(captions)} differ: {wrong[:5]!r}"
    lengths = [min(len(theirs.encode(c)) + 2, ours.context_length) for c in captions]
    assert encoded["length"].tolist() == lengths
    return len(captions)


def test_the_vocabulary_is_openais(ours, theirs):
    assert (ours.vocabulary_size, ours.start, ours.end) == (49408, 49406, 49407)
    assert {symbol: i for i, symbol in enumerate(ours.symbols)} == theirs.encoder


@pytest.mark.parametrize("context", [77, 8, 32, 248])
def test_every_id_of_six_thousand_hard_captions_is_open_clips(theirs, context):
    tokenizer = BpeTokenizer.load(peers.default_bpe(), context)
    assert same(tokenizer, theirs, HARD) == 6000


def test_every_id_of_ten_thousand_characters_is_open_clips(ours, theirs):
    whole = BpeTokenizer.load(peers.default_bpe(), 33_000)
    assert same(ours, theirs, LONG) == same(whole, theirs, LONG) == len(LONG)


def test_every_code_point_below_20000_and_some_above_is_open_clips(ours, theirs):
    points = [*range(0x20000), *range(0x20000, 0x110000, 997)]
    captions = [f"{chr(point)} a{chr(point)}B {chr(point)}{chr(point)}'s" for point in points]
    assert same(ours, theirs, captions) > 130_000


def test_every_pair_of_ascii_characters_is_open_clips(ours, theirs):
    assert same(ours, theirs, [f"x{chr(a)}{chr(b)}y" for a in range(128) for b in range(128)]) == 128 * 128


@settings(max_examples=3000, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=60), min_size=1, max_size=3))
def test_every_id_of_any_text_is_open_clips(ours, theirs, captions):
    same(ours, theirs, captions)


def test_every_word_of_the_vocabulary_is_open_clips(ours, theirs):
    words = [theirs.decode([i]).strip() for i in range(ours.vocabulary_size - 2)]
    assert same(ours, theirs, words) == 49406


def test_hugging_faces_files_give_the_same_tokenizer(ours, tmp_path):
    transformers = pytest.importorskip("transformers")
    symbols = [*ours.symbols[:-2], "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
    lines = gzip.decompress(Path(peers.default_bpe()).read_bytes()).decode().split("\n")[: 48894 + 1]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    assert BpeTokenizer.load(tmp_path) == ours
    vocab, merges = json.loads((tmp_path / "vocab.json").read_text()), [tuple(line.split()) for line in lines[1:]]
    peer = transformers.CLIPTokenizer(vocab=vocab, merges=merges)
    peer.save_pretrained(tmp_path / "saved")
    assert BpeTokenizer.load(tmp_path / "saved") == ours
    # On captions that cleaning leaves alone the peer agrees as well; on the others it leaves out ftfy and the entities.
    plain = [c for c in (" ".join(draw.choices(WORDS, k=9)) for _ in range(2000)) if c.isascii() and "&" not in c]
    for caption, row, n in zip(plain, *BpeTokenizer.encode(ours, plain).values(), strict=True):
        assert peer(caption)["input_ids"] == row[:n].tolist()


def learn(path, **options):
    """Writes `path`.model, a SentencePiece model of captions of common words."""
    from sentencepiece import SentencePieceTrainer

    words = [word.lower().replace("’", "") for word in WORDS]
    SentencePieceTrainer.train(
        sentence_iterator=(" ".join(draw.choices(words, k=10)) for _ in range(800)),
        model_prefix=str(path),
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )


def test_siglips_ids_are_those_of_transformers_and_open_clip(tmp_path):
    transformers = pytest.importorskip("transformers")
    clean = peers.get_clean_fn("canonicalize")
    learn(tmp_path / "spiece", model_type="unigram", vocab_size=150, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer = SiglipTokenizer.load(tmp_path, 16)
    assert (tokenizer.pad, tokenizer.end, tokenizer.clean) == (1, 1, "siglip")
    peer = transformers.SiglipTokenizer(str(tmp_path / "spiece.model"))
    # The peer reads control tokens written in a caption, and turns a lone surrogate away.
    captions = [
        c for c in HARD if not any(s in c for s in ("</s>", "<unk>")) and c.encode(errors="replace").decode() == c
    ] + list(LONG)
    assert len(captions) > 3000
    wanted = peer(captions, padding="max_length", max_length=16, truncation=True)["input_ids"]
    assert tokenizer.encode(captions)["tokens"].tolist() == wanted
    lengths = [min(len(peer(c)["input_ids"]), 16) for c in captions[:500]]
    assert tokenizer.encode(captions)["length"][:500].tolist() == lengths

    fast = transformers.T5Tokenizer.from_pretrained(tmp_path, extra_ids=0, legacy=False)
    fast.pad_token_id = 1
    # The peer's copy of SentencePiece normalises a character with its combining marks as one, the library does not.
    captions = [c for c in HARD if not any(unicodedata.category(x)[0] == "M" for x in clean(c))]
    assert len(captions) > 4000
    cleaned = [clean(c) for c in captions]
    wanted = fast(cleaned, padding="max_length", max_length=16, truncation=True)["input_ids"]
    got = SiglipTokenizer.load(tmp_path, 16, clean="open_clip").encode(captions)["tokens"]
    assert got.tolist() == wanted


def test_siglip_2s_ids_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    # As Gemma's vocabulary was made.
    pieces = {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>", "byte_fallback": True}
    spaces = {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True}
    names = {"model_type": "bpe", "normalization_rule_name": "identity", "split_digits": True}
    ids = {"vocab_size": 600, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    learn(tmp_path / "tokenizer", **pieces, **spaces, **names, **ids)
    tokenizer = SiglipTokenizer.load(tmp_path, 16)
    assert (tokenizer.pad, tokenizer.end, tokenizer.clean) == (0, 1, "siglip2")
    peer = transformers.Siglip2Tokenizer.from_pretrained(
        tmp_path, add_bos_token=False, add_eos_token=True, padding_side="right"
    )
    captions = [c for c in HARD if c.encode(errors="replace").decode() == c]
    assert len(captions) > 3000
    wanted = peer(captions, padding="max_length", max_length=16, truncation=True)["input_ids"]
    got = tokenizer.encode(captions)["tokens"].tolist()
    wrong = [(c, a, b) for c, a, b in zip(captions, got, wanted, strict=True) if a != b]
    assert not wrong, f"{len(wrong)} of {len(captions)}: {wrong[:3]}"
