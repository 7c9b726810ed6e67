"""SigLIP's tokenizers on small SentencePiece models that are learned here."""

import copy
import inspect
import io
import itertools
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.data.text.siglip_tokenizer import SiglipTokenizer
from diffusion_jax.typing import Tokenizer, UserError

sentencepiece = pytest.importorskip("sentencepiece")

CAPTION = "a photo of the cat dog tree house café on under red green blue small large mat street"
ANY = st.text(st.characters(exclude_categories=()), max_size=40)


def learned(**options):
    """The bytes of a SentencePiece model of the pairs of words of `CAPTION`."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(words) for words in itertools.permutations(CAPTION.split(), 2)),
        model_writer=out,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


def t5(**options):
    return learned(**{"vocab_size": 80, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, **options})


def gemma():
    pieces = {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>", "byte_fallback": True}
    spaces = {"add_dummy_prefix": False, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    return learned(model_type="bpe", vocab_size=400, **pieces, **spaces, **ids)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("siglip")
    for name, model in (("one/spiece.model", t5()), ("two/tokenizer.model", gemma())):
        (path / name).parent.mkdir()
        (path / name).write_bytes(model)
    return path


@pytest.fixture(scope="module")
def one(folder):
    return SiglipTokenizer.load(folder / "one", 12)


@pytest.fixture(scope="module")
def two(folder):
    return SiglipTokenizer.load(folder / "two" / "tokenizer.model", 12)


def test_a_row_is_the_pieces_the_end_and_the_padding(one, two):
    for tokenizer, pad in ((one, 1), (two, 0)):
        library = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
        pieces = library.encode("a photo of the cat")
        encoded = tokenizer.encode(["a photo of the cat", "", "the " * 50])
        assert encoded["tokens"][0].tolist() == [*pieces, 1] + [pad] * (11 - len(pieces))
        assert encoded["tokens"][1].tolist() == [1] + [pad] * 11
        assert encoded["tokens"][2].tolist() == [*library.encode("the " * 50)[:11], 1]
        assert encoded["length"].tolist() == [len(pieces) + 1, 1, 12]
        assert encoded["tokens"].dtype == encoded["length"].dtype == np.int32
        assert tokenizer.vocabulary_size == library.get_piece_size() and tokenizer.end == 1 and tokenizer.pad == pad
        assert tokenizer.decode(encoded["tokens"][0]) == "a photo of the cat"
        assert isinstance(tokenizer, Tokenizer) and "model" not in repr(tokenizer)


def test_siglip_drops_case_punctuation_and_spaces_and_siglip_2_case_alone(folder, one, two):
    plain = one.encode(["a cat on the mat"])["tokens"]
    np.testing.assert_array_equal(one.encode(["  A  Cat, on\tthe\nmat!! "])["tokens"], plain)
    np.testing.assert_array_equal(two.encode(["A CAT"])["tokens"], two.encode(["a cat"])["tokens"])
    assert not np.array_equal(two.encode(["a cat!"])["tokens"], two.encode(["a cat"])["tokens"])
    for name in ("one", "two"):
        full = SiglipTokenizer.load(folder / name, 12, clean="open_clip")
        wanted = full.encode(["a café on the mat"])["tokens"]
        np.testing.assert_array_equal(full.encode(["A caf&amp;eacute;_on, the mat."])["tokens"], wanted)
        np.testing.assert_array_equal(full.encode(["A cafÃ© on the mat"])["tokens"], wanted)
    assert not np.array_equal(one.encode(["a_cat"])["tokens"], one.encode(["a cat"])["tokens"])


@given(st.lists(ANY, max_size=3))
def test_any_text_is_encoded(one, two, texts):
    for tokenizer in (one, two):
        encoded = tokenizer.encode(texts)
        assert encoded["tokens"].shape == (len(texts), 12)
        for row, length in zip(encoded["tokens"], encoded["length"], strict=True):
            assert row[length - 1] == tokenizer.end and (row[length:] == tokenizer.pad).all()
            # A caption never becomes a control token.
            assert not {0, 1} & set(row[: length - 1].tolist())
        assert all("\n" not in line for line in tokenizer.explain(texts))


def test_control_tokens_in_a_caption_are_text(folder):
    tokenizer = SiglipTokenizer.load(folder / "two", 32)
    assert tokenizer.decode(tokenizer.encode(["a <eos> cat</s> <pad>"])["tokens"][0]) == "a <eos> cat</s> <pad>"


def test_what_does_not_reach_the_model_is_said(one):
    assert one.explain(["a cat", "the house"]) == []
    empty, unknown, cut = one.explain(["?!", "a 日本 cat", "the cat " * 30, "?!"])
    assert empty == "prompt '?!': nothing is left of it but the end token: an empty caption"
    assert unknown.startswith("prompt 'a 日本 cat': 1 of ") and unknown.endswith("tokens are not in the vocabulary")
    assert "of 60 tokens only the first 11 fit; 49 are left out" in cut


def test_a_copy_gives_the_same_ids(one):
    for other in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert other == one and "_pieces" not in other.__dict__
        np.testing.assert_array_equal(other.encode(["a cat"])["tokens"], one.encode(["a cat"])["tokens"])


def test_what_cannot_be_is_named(folder, tmp_path, one, monkeypatch):
    def refused(path, message, **options):
        with pytest.raises(UserError, match=message) as error:
            SiglipTokenizer.load(path, **options)
        assert "\n" not in str(error.value)

    refused(folder / "one" / "spice.model", "did you mean '.*spiece.model'")
    refused(tmp_path, "none of spiece.model, tokenizer.model")
    refused(folder / "one", "clean 'siglip3' is not known; did you mean 'siglip'", clean="siglip3")
    refused(folder / "one", "context_length 0 is not at least 1", context_length=0)
    (tmp_path / "spiece.model").write_bytes(b"")
    refused(tmp_path, "is no SentencePiece model: .*the file is empty")
    (tmp_path / "spiece.model").write_bytes(b"\x1f\x8bno model at all")
    refused(tmp_path, "is no SentencePiece model")
    (tmp_path / "spiece.model").write_bytes(t5(eos_id=-1, unk_id=1))
    refused(tmp_path, "has no end token")
    with pytest.raises(UserError, match=r"write \['a cat'\]"):
        one.encode("a cat")
    for method in (SiglipTokenizer.encode, SiglipTokenizer.explain):
        # The checker of annotations, which runs in tests alone, would speak first.
        with pytest.raises(UserError, match="caption 1 is None of type NoneType"):
            inspect.unwrap(method)(one, ["a", None])
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    refused(folder / "one", "needs the library sentencepiece: install diffusion-jax with its extra `siglip`")
