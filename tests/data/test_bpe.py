"""CLIP's tokenizer: cleaning, byte-pair encoding by definition, rows, files, and open_clip's ids on hard captions."""

import copy
import gzip
import html
import inspect
import json
import pickle
import re
import string
import threading
from itertools import pairwise
from pathlib import Path

import ftfy
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from diffusion_jax.data.text import bpe
from diffusion_jax.data.text.bpe import BYTE_SYMBOLS, PATTERN, BpeTokenizer, clean
from diffusion_jax.typing import Tokenizer, UserError

GOLDEN = json.loads((Path(__file__).parent / "golden_bpe.json").read_text())
MERGES = tuple(tuple(line.split()) for line in GOLDEN["merges"])
ALPHABET = [*BYTE_SYMBOLS.values(), *(symbol + "</w>" for symbol in BYTE_SYMBOLS.values())]
ANY = st.text(st.characters(exclude_categories=()), max_size=40)
ASCII = st.text(st.characters(max_codepoint=127), max_size=40)


def made(merges, context_length=77):
    symbols = (*ALPHABET, *("".join(pair) for pair in merges), "<start_of_text>", "<end_of_text>")
    return BpeTokenizer(symbols, tuple(merges), len(symbols) - 2, len(symbols) - 1, context_length)


SMALL = made(MERGES)
LONG = made(MERGES, 2000)


def write_gzip(folder, lines=None, name="bpe_simple_vocab_16e6.txt.gz"):
    path = folder / name
    path.write_bytes(gzip.compress("\n".join(["#version: 0.2", *(lines or GOLDEN["merges"])]).encode()))
    return path


def vocabulary():
    symbols = [*SMALL.symbols[:-2], "<|startoftext|>", "<|endoftext|>"]
    return {symbol: i for i, symbol in enumerate(symbols)}


def write_json(folder, vocab=None, lines=None):
    (folder / "vocab.json").write_text(json.dumps(vocabulary() if vocab is None else vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(lines or GOLDEN["merges"]), ""]), "utf-8")
    return folder


def slowly_cleaned(text):
    """The cleaning as OpenAI's code has it, step by step."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip().lower()


def by_definition(word, merges):
    """The symbols of a word: while a merge applies, the earliest one, at every place from the left."""
    if word in ("<start_of_text>", "<end_of_text>"):
        return [word]
    symbols = [BYTE_SYMBOLS[byte] for byte in word.encode()]
    symbols[-1] += "</w>"
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while True:
        here = [pair for pair in pairwise(symbols) if pair in ranks]
        if not here:
            return symbols
        best = min(here, key=ranks.__getitem__)
        i = 0
        while i < len(symbols) - 1:
            if (symbols[i], symbols[i + 1]) == best:
                symbols[i : i + 2] = ["".join(best)]
            i += 1


def test_every_id_is_open_clips_on_hard_captions():
    captions = [caption for caption, _, _ in GOLDEN["cases"]]
    encoded = SMALL.encode(captions)
    assert len(captions) > 500
    for (caption, ids, full), row, length in zip(GOLDEN["cases"], encoded["tokens"], encoded["length"], strict=True):
        assert row[:length].tolist() == ids, repr(caption)
        assert not row[length:].any()
        assert length == min(full, 77) == len(ids)
    lengths = LONG.encode([caption for caption in captions if len(caption) < 1000])["length"]
    assert lengths.tolist() == [full for caption, _, full in GOLDEN["cases"] if len(caption) < 1000]


def test_a_vocabulary_of_two_merges_by_hand():
    tokenizer = made([("c", "a"), ("ca", "t</w>")], 8)
    ids = {symbol: i for i, symbol in enumerate(tokenizer.symbols)}
    encoded = tokenizer.encode(["Cat  cab!", "catcat"])
    start, end = tokenizer.start, tokenizer.end
    assert (start, end, tokenizer.vocabulary_size) == (514, 515, 516)
    assert encoded["tokens"].tolist() == [
        [start, ids["cat</w>"], ids["ca"], ids["b</w>"], ids["!</w>"], end, 0, 0],
        [start, ids["ca"], ids["t"], ids["cat</w>"], end, 0, 0, 0],
    ]
    assert encoded["length"].tolist() == [6, 5] and encoded["tokens"].dtype == encoded["length"].dtype == np.int32
    assert (ids["!"], ids["!</w>"]) == (0, 256)


@settings(max_examples=200)
@given(st.data())
def test_the_heap_gives_what_the_definition_gives_for_any_order_of_merges(data):
    known, merges = ["a", "b", "a</w>", "b</w>"], []
    for _ in range(data.draw(st.integers(1, 12))):
        left = data.draw(st.sampled_from([symbol for symbol in known if not symbol.endswith("</w>")]))
        pair = (left, data.draw(st.sampled_from(known)))
        if "".join(pair) not in known:
            known.append("".join(pair))
            merges.append(pair)
    merges = data.draw(st.permutations(merges))
    tokenizer = made(merges, 100)
    word = data.draw(st.text("ab", min_size=1, max_size=60))
    row = tokenizer.encode([word])
    assert [tokenizer.symbols[i] for i in row["tokens"][0, 1 : row["length"][0] - 1]] == by_definition(word, merges)


@given(ANY | ASCII)
def test_a_caption_is_its_words_by_definition(text):
    row = LONG.encode([text])
    wanted = [symbol for word in PATTERN.findall(slowly_cleaned(text)) for symbol in by_definition(word, MERGES)]
    assert [LONG.symbols[i] for i in row["tokens"][0, 1 : row["length"][0] - 1]] == wanted


def test_the_short_way_of_cleaning_is_the_long_one_for_every_three_ascii_characters():
    """ftfy and the entities look at an ampersand, an escape or a control character and what follows."""
    characters = [chr(i) for i in range(128)]
    for a in characters:
        # One text for all b: each piece holds its neighbours, and what is between is what could be an entity's end.
        text = "".join(f"x{a}{b}y {a}{b};{a} " for b in characters if b.isprintable())
        for piece in (text, text.replace("&", ""), *(f"{a}{b}" for b in characters)):
            assert clean(piece) == slowly_cleaned(piece), repr(piece)


@given(st.text(string.printable + "&;#amplt", max_size=60))
def test_the_short_way_of_cleaning_is_the_long_one(text):
    assert clean(text) == slowly_cleaned(text)


# OpenAI's expression, which ignores case, finds it nowhere: it is no letter, and its capital is one.
LOST = "\N{COMBINING GREEK YPOGEGRAMMENI}"


@given(ANY)
@example(f"a{LOST}b")
def test_no_byte_is_lost_but_those_of_one_character(text):
    assume("_of_text>" not in text.lower())
    row = LONG.encode([text])["tokens"][0]
    assert "".join(LONG.decode(row).split()) == "".join(slowly_cleaned(text).replace(LOST, "").split())


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="&<"), max_size=40))
def test_a_decoded_caption_is_encoded_to_the_same_row(text):
    row = SMALL.encode([text])["tokens"]
    np.testing.assert_array_equal(SMALL.encode([SMALL.decode(row[0])])["tokens"], row)


def test_decoding_gives_words_with_spaces_between_and_stops_at_the_end():
    row = SMALL.encode(["A photo of  a CAT, it's café 日本<end_of_text> dog"])["tokens"][0]
    assert SMALL.decode(row) == "a photo of a cat , it 's café 日本"
    bare = made((), 5)
    assert bare.decode(bare.encode(["日日"])["tokens"][0]) == "日"
    bare = made((), 4)
    assert bare.decode(bare.encode(["日日"])["tokens"][0]) == "\ufffd"


@given(ANY, st.integers(2, 90))
def test_a_context_of_any_length_keeps_the_beginning(text, context):
    whole, cut = LONG.encode([text]), made(MERGES, context).encode([text])
    length = min(int(whole["length"][0]), context)
    wanted = np.zeros(context, np.int32)
    wanted[:length] = whole["tokens"][0, :length]
    wanted[length - 1] = LONG.end
    np.testing.assert_array_equal(cut["tokens"][0], wanted)
    assert cut["length"][0] == length


def test_no_captions_give_no_rows():
    encoded = SMALL.encode([])
    assert encoded["tokens"].shape == (0, 77) and encoded["length"].shape == (0,)


def test_a_very_long_word_takes_no_quadratic_time():
    draw = np.random.default_rng(0)
    word = "".join(draw.choice(list("abcdefghijklmnopqrstuvwxyz"), 3000))
    row = made(MERGES, 4000).encode([word])
    assert [SMALL.symbols[i] for i in row["tokens"][0, 1 : row["length"][0] - 1]] == by_definition(word, MERGES)
    assert SMALL.encode(["a" * 100_000])["length"][0] == 77


def test_every_format_gives_the_same_tokenizer(tmp_path):
    for name in ("gz", "json", "whole", "diffusers/tokenizer", "apart"):
        (tmp_path / name).mkdir(parents=True)
    gz = write_gzip(tmp_path / "gz")
    folder = write_json(tmp_path / "json")
    write_json(tmp_path / "diffusers" / "tokenizer")
    model = {"type": "BPE", "vocab": vocabulary(), "merges": GOLDEN["merges"]}
    whole = tmp_path / "whole" / "tokenizer.json"
    whole.write_text(json.dumps({"model": model}))
    apart = (folder / "merges.txt").rename(tmp_path / "apart" / "pairs.txt")
    tokenizers = [
        BpeTokenizer.load(gz),
        BpeTokenizer.load(str(gz.parent)),
        BpeTokenizer.load(folder / "vocab.json", merges=apart),
        BpeTokenizer.load(tmp_path / "diffusers"),
        BpeTokenizer.load(tmp_path / "diffusers" / "tokenizer" / "merges.txt"),
        BpeTokenizer.load(whole.parent),
    ]
    assert all(tokenizer == SMALL for tokenizer in tokenizers)
    model["merges"] = [line.split() for line in GOLDEN["merges"]]
    whole.write_text(json.dumps({"model": model}))
    assert BpeTokenizer.load(whole, 16) == made(MERGES, 16)
    assert isinstance(SMALL, Tokenizer) and "merges" not in repr(SMALL)


def test_only_as_many_merges_count_as_openai_uses(tmp_path, monkeypatch):
    monkeypatch.setattr(bpe, "_MOST_MERGES", 100)
    assert BpeTokenizer.load(write_gzip(tmp_path)) == made(MERGES[:100])


def test_ids_are_those_of_the_json(tmp_path):
    ids = vocabulary()
    ids["a"], ids["b"] = ids["b"], ids["a"]
    tokenizer = BpeTokenizer.load(write_json(tmp_path, ids))
    assert tokenizer.encode(["ax"])["tokens"][0, 1] == vocabulary()["b"]


def test_a_copy_leaves_the_table_behind_and_gives_the_same_ids():
    captions = [caption for caption, _, _ in GOLDEN["cases"][:60]]
    wanted = SMALL.encode(captions)["tokens"]
    for other in (pickle.loads(pickle.dumps(SMALL)), copy.deepcopy(SMALL)):
        assert other == SMALL and hash(other) == hash(SMALL) and "_pieces" not in other.__dict__
        np.testing.assert_array_equal(other.encode(captions)["tokens"], wanted)


def test_the_table_stays_bounded_and_threads_agree(monkeypatch):
    monkeypatch.setattr(bpe, "_MOST_PIECES", 20)
    tokenizer, captions = made(MERGES), [caption for caption, _, _ in GOLDEN["cases"]][:200]
    wanted, wrong = SMALL.encode(captions)["tokens"], []

    def work(shift):
        for _ in range(3):
            tokens = tokenizer.encode(captions[shift:] + captions[:shift])["tokens"]
            if not np.array_equal(np.roll(tokens, shift, 0), wanted):
                wrong.append(shift)

    threads = [threading.Thread(target=work, args=(shift,)) for shift in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Four threads may each pass the check before the others' entries are in.
    assert not wrong and 0 < len(tokenizer._pieces) <= 20 + 4
    assert max(map(len, tokenizer._pieces)) <= 48 < max(len(piece) for caption in captions for piece in caption.split())


def test_what_does_not_reach_the_model_is_said():
    assert SMALL.explain(["a cat", "a dog"]) == []
    assert made(MERGES, 5).explain(["a cat", " \n", "a cat on a mat", "a cat on a mat"]) == [
        "prompt ' \\n': nothing is left of it but start and end: an empty caption",
        f"prompt 'a cat on a mat': of {LONG.encode(['a cat on a mat'])['length'][0] - 2} tokens only the first 3 fit; "
        f"{LONG.encode(['a cat on a mat'])['length'][0] - 5} are left out",
    ]
    (line,) = SMALL.explain(["a cat<end_of_text> on a mat"])
    assert "'<end_of_text>' in it is the end token" in line
    (line,) = SMALL.explain(["b " * 5000])
    assert len(line) < 200 and "of 5000 tokens" in line


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a cat", r"a list of texts, not the text 'a cat'; write \['a cat'\]"),
        (b"a cat", "list of texts"),
        (["a", None], "caption 1 is None of type NoneType, not a text"),
        (["a", "b", b"c"], "caption 2 is b'c' of type bytes, not a text; decode it first"),
        ([3.5], "caption 0 is 3.5 of type float"),
    ],
)
def test_what_is_no_caption_is_named(texts, message):
    with pytest.raises(UserError, match=message) as error:
        bpe.check_captions(texts)
    assert "\n" not in str(error.value)
    for method in (BpeTokenizer.encode, BpeTokenizer.explain):
        # The checker of annotations, which runs in tests alone, would speak first.
        with pytest.raises(UserError, match=message):
            inspect.unwrap(method)(SMALL, texts)


def test_files_that_are_not_vocabularies_are_named(tmp_path):
    def refused(path, message, **options):
        with pytest.raises(UserError, match=message) as error:
            BpeTokenizer.load(path, **options)
        assert "\n" not in str(error.value) and str(tmp_path) in str(error.value).replace("\\\\", "\\")

    gz = write_gzip(tmp_path)
    refused(tmp_path / "bpe_simple_vocab.txt.gz", "no vocabulary at .* did you mean .*bpe_simple_vocab_16e6.txt.gz'")
    refused(tmp_path / "no" / "where.gz", "there is no vocabulary at")
    whole = gz.read_bytes()
    gz.write_bytes(whole[:-40])
    refused(gz, "is no gzip file of merges .* or is damaged")
    gz.write_bytes(whole[:50] + bytes(20) + whole[70:])
    refused(gz, "is no gzip file of merges .* or is damaged")
    gz.write_text("th e\n")
    refused(gz, "is no gzip file")
    gz.write_bytes(gzip.compress(b"#version: 0.2\n\n"))
    refused(gz, "no merges: an empty vocabulary")
    refused(write_gzip(tmp_path, ["c a", "x y z"]), "merge 2 in .*'x y z'")
    refused(write_gzip(tmp_path, ["c a", "ca ts"]), "'ca ts' in .* joins what no line before")
    refused(write_gzip(tmp_path, ["c a", "a b", "c a"]), "'c a' in .* makes what is there already")
    gz.unlink()
    refused(tmp_path, "none of vocab.json with merges.txt, bpe_simple")

    folder = write_json(tmp_path)
    ids = vocabulary()
    (folder / "merges.txt").rename(folder / "merge.txt")
    refused(folder, "no vocabulary at .*merges.txt'; did you mean .*merge.txt'")
    refused(write_json(tmp_path, {}), "an empty vocabulary")
    refused(write_json(tmp_path, [1, 2]), "does not map symbols to the ids")
    refused(write_json(tmp_path, {"a": 0, "b": 7}), "does not map symbols to the ids")
    refused(
        write_json(tmp_path, None, GOLDEN["merges"][:-1]),
        f"has {''.join(MERGES[-1])!r}, which no merge in .* do not fit",
    )
    refused(write_json(tmp_path, None, [*GOLDEN["merges"], "q q"]), "lacks 'qq', so that it does not fit")
    refused(
        write_json(tmp_path, {s: i for i, s in enumerate(s for s in ids if s != "<|startoftext|>")}),
        r"lacks '<\|startoftext\|>'",
    )
    refused(write_json(tmp_path, None, [" "]), "no merges")
    (folder / "vocab.json").write_bytes(b"\x80{")
    refused(folder, r"is not UTF-8 text \(byte 0\)")
    (folder / "vocab.json").write_bytes(b"{")
    refused(folder, "is not JSON")


def test_sizes_that_cannot_be_are_named():
    with pytest.raises(UserError, match="context_length 1 is not at least 2"):
        made(MERGES, 1)
    with pytest.raises(UserError, match="the end token has id 3, not the largest"):
        BpeTokenizer(SMALL.symbols, SMALL.merges, 2, 3)
