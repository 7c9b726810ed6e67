"""The word tokenizer's frame, and what it says of words it does not know."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.data.sources.digits import VOCABULARY
from diffusion_jax.data.text.word_tokenizer import WordTokenizer
from diffusion_jax.typing import UserError

TOKENIZER = WordTokenizer(VOCABULARY, 16)
KNOWN = st.lists(st.sampled_from(VOCABULARY), max_size=30)


@given(st.lists(KNOWN, min_size=1, max_size=4))
def test_the_end_token_stands_at_the_length_and_words_come_back(texts):
    encoded = TOKENIZER.encode([" ".join(words) for words in texts])
    tokens, length = encoded["tokens"], encoded["length"]
    assert tokens.shape == (len(texts), 16) and tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens.argmax(1), length - 1)
    np.testing.assert_array_equal(tokens[:, 0], TOKENIZER.start)
    for row, words, n in zip(tokens, texts, length, strict=True):
        assert TOKENIZER.decode(row) == " ".join(words[:14])
        assert n == min(len(words), 14) + 2
        assert not row[n:].any()


@given(st.text(max_size=60))
def test_any_text_is_encoded(text):
    encoded = TOKENIZER.encode([text])
    assert encoded["tokens"].max() == TOKENIZER.end == TOKENIZER.vocabulary_size - 1
    assert (len(TOKENIZER.unknown(text)) > 0) <= (len(TOKENIZER.explain([text])) > 0)


def test_case_and_punctuation_do_not_matter_and_hyphens_do():
    a, b = TOKENIZER.encode(["The digit SEVEN, left-leaning!", "the digit seven left-leaning"])["tokens"]
    np.testing.assert_array_equal(a, b)
    assert "left-leaning" in TOKENIZER.decode(a)


def test_the_empty_text_is_start_and_end():
    encoded = TOKENIZER.encode([""])
    assert list(encoded["tokens"][0, :3]) == [TOKENIZER.start, TOKENIZER.end, 0]
    assert encoded["length"][0] == 2


def test_what_is_left_out_is_said_with_the_nearest_word():
    assert TOKENIZER.explain(["a bold seven"]) == []
    lines = TOKENIZER.explain(["a purple sevn", "a purple sevn", "thin " * 20])
    assert lines == [
        "prompt 'a purple sevn': 'purple' is not in the vocabulary and is left out",
        "prompt 'a purple sevn': 'sevn' is not in the vocabulary and is left out (nearest: 'seven')",
        f"prompt {'thin ' * 20!r}: of 20 known words only the first 14 fit; 6 are left out",
    ]
    np.testing.assert_array_equal(TOKENIZER.encode(["a purple two"])["tokens"], TOKENIZER.encode(["a two"])["tokens"])


def test_many_unknown_words_are_a_few_short_lines():
    prompt = " ".join(f"word{i}" for i in range(1700))
    lines = TOKENIZER.explain([prompt])
    assert len(lines) == 7 and sum(map(len, lines)) < 2000
    assert "1695 more words are not in the vocabulary" in lines[-2]
    assert all(line.startswith("prompt 'word0 word1 ") for line in lines)


@pytest.mark.parametrize("prompt", ["\N{PARTY POPPER}", "", "purple", "...", " \n"])
def test_a_prompt_of_which_nothing_is_left_is_said(prompt):
    assert "no word of it reaches the model: it counts as the empty prompt" in TOKENIZER.explain([prompt])[-1]


def test_bad_input_is_named():
    with pytest.raises(UserError, match=r"write \['a seven'\]"):
        TOKENIZER.encode("a seven")
    with pytest.raises(UserError, match="context_length 1"):
        WordTokenizer(VOCABULARY, 1)
    with pytest.raises(UserError, match="twice"):
        WordTokenizer(("a", "a"))
