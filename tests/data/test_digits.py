"""The scans, what is measured on them, and captions that tell the truth."""

import hashlib

import numpy as np
import pytest

from diffusion_jax.data.pipeline import batches, caption_table
from diffusion_jax.data.sources import digits as grammar
from diffusion_jax.data.sources.digits import SPLITS, classify, load_digits, measure
from diffusion_jax.typing import Source, UserError


@pytest.fixture(scope="module")
def splits():
    return {name: load_digits(name) for name in SPLITS}


@pytest.fixture(scope="module")
def table(splits):
    return caption_table(splits["train"])


def test_splits_are_fixed_disjoint_stratified_and_whole(splits):
    assert {name: len(source) for name, source in splits.items()} == {"train": 1257, "validation": 180, "test": 360}
    # every one of the 1,797 scans is in one split: together they are scikit-learn's, as a multiset
    from sklearn.datasets import load_digits as original

    raw = original()
    ours = np.concatenate([source.images for source in splits.values()])
    theirs = (raw.images / 8 - 1).astype(np.float32)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))
    for source in splits.values():
        assert isinstance(source, Source)
        shares = np.bincount(source.labels, minlength=10) / len(source)
        np.testing.assert_allclose(shares, np.bincount(raw.target) / 1797, atol=0.6 / len(source) ** 0.5 / 10)
    digest = hashlib.sha256(b"".join(source.images.tobytes() for source in splits.values())).hexdigest()[:12]
    assert digest == "4b3eceb56421"


def test_an_item_and_the_columns_say_the_same(splits):
    source = splits["test"]
    columns = source.columns()
    item = source[17]
    np.testing.assert_array_equal(item["image"], columns["image"][17])
    assert item["label"] == columns["label"][17] and item["index"] == columns["index"][17] == 17
    assert item["image"].shape == (8, 8, 1) and item["image"].dtype == np.float32
    assert source[-1]["index"] == 359
    with pytest.raises(IndexError):
        source[360]
    assert columns["image"].min() == -1 and columns["image"].max() == 1


def bar(shear, ink=1.0, size=8):
    """A bar of ink whose top leans `shear` pixels to the right for each row."""
    image = np.full((size, size), -1.0, np.float32)
    for row in range(1, 7):
        centre = 3.5 + shear * (3.5 - row)
        left = int(np.floor(centre))
        image[row, left] = -1 + 2 * ink * (1 - (centre - left))
        image[row, left + 1] = -1 + 2 * ink * (centre - left)
    return image[None, :, :, None]


@pytest.mark.parametrize("shear", [-0.5, -0.2, 0.0, 0.3, 0.6])
def test_the_slant_of_a_sheared_bar_is_its_shear(shear):
    np.testing.assert_allclose(measure(bar(shear))["slant"], [shear], atol=1e-6)


def test_ink_width_and_empty_images():
    np.testing.assert_allclose(measure(bar(0.0, ink=0.5))["ink"], [6 * 0.5 / 64])
    np.testing.assert_allclose(measure(np.full((1, 8, 8, 1), 3.0, np.float32))["ink"], [1.0])  # clipped
    np.testing.assert_allclose(measure(np.full((1, 8, 8, 1), 1.0, np.float32))["width"], [2 * np.sqrt(63 / 12)])
    empty = measure(np.full((1, 8, 8, 1), -1.0, np.float32))
    assert empty["slant"] == empty["width"] == empty["ink"] == 0


def test_classes_are_terciles_of_each_digit_of_the_training_scans(splits):
    source = splits["train"]
    for name in ("weight", "slant"):
        for digit in range(10):
            shares = (
                np.bincount(source.attributes[name][source.labels == digit], minlength=3)
                / (source.labels == digit).sum()
            )
            assert (np.abs(shares - 1 / 3) < 0.04).all(), (name, digit, shares)
    thin = source.images[source.attributes["weight"] == 0].mean()
    bold = source.images[source.attributes["weight"] == 2].mean()
    assert thin < source.images.mean() < bold


def test_more_ink_is_bolder_and_labels_must_match():
    images = np.concatenate([bar(0.0, ink) for ink in (0.2, 1.0)])
    weights = classify(images, np.array([1, 1]))["weight"]
    assert weights[0] == 0
    with pytest.raises(UserError, match="2 images have 1 labels"):
        classify(images, np.array([1]))
    with pytest.raises(UserError, match="did you mean 'train'"):
        load_digits("trian")


def read_back(caption):
    """(digit, weight or None, slant or None) as a person would read a caption."""
    words = caption.replace(",", "").split()
    digits = [w for w in words if w in grammar.CLASS_NAMES or w.isdigit()]
    assert len(digits) == 1, caption
    digit = int(digits[0]) if digits[0].isdigit() else grammar.CLASS_NAMES.index(digits[0])
    weight = {name for name, said in grammar.WEIGHT_WORDS.items() if set(said) & set(words)}
    leaning = {"leaning left": "backward", "standing upright": "upright", "leaning right": "slanted"}
    slant = {name for name, said in grammar.SLANT_WORDS.items() if set(said) & set(words)}
    slant |= {name for phrase, name in leaning.items() if phrase in caption}
    assert len(weight) <= 1 and len(slant) <= 1, caption
    return digit, next(iter(weight), None), next(iter(slant), None)


def test_every_caption_tells_the_truth(splits):
    for source in splits.values():
        for i in range(len(source)):
            item = source[i]
            attributes = item["attributes"]
            assert len(set(item["captions"])) == 8
            for j, caption in enumerate(item["captions"]):
                digit, weight, slant = read_back(caption)
                assert digit == item["label"]
                assert weight in (None, attributes["weight"]), caption
                assert slant in (None, attributes["slant"]), caption
                if j == 0:
                    assert weight is not None and slant is not None


def test_the_vocabulary_is_what_is_said(table):
    said = {word for text in table.unique for word in text.replace(",", "").split()}
    templates = {word for text in grammar.TEMPLATES for word in text.replace("{}", "").split()}
    assert said | templates == set(grammar.VOCABULARY)
    assert len(set(grammar.VOCABULARY)) == len(grammar.VOCABULARY)


def test_the_source_says_its_own_words(splits):
    source, names = splits["validation"], grammar.CLASS_NAMES
    assert source.class_names == names and source.templates == grammar.TEMPLATES and source.levels == 17
    assert source.prompts == tuple(f"{'an' if name == 'eight' else 'a'} {name}" for name in names)
    assert {word for text in source.prompts for word in text.split()} <= set(source.vocabulary)


def test_captions_are_a_function_of_their_arguments_and_grammatical():
    first = grammar.captions(8, "bold", "upright", 3)
    assert first == grammar.captions(8, "bold", "upright", 3)
    assert first != grammar.captions(8, "bold", "upright", 4)
    assert grammar.with_article("a eight and a upright one") == "an eight and an upright one"
    every = [text for i in range(50) for text in grammar.captions(8, "thin", "upright", i)]
    assert not any("a eight" in text or "a 8" in text or "a upright" in text for text in every)
    for arguments, message in [
        ((10, "bold", "upright", 0), "digit 10"),
        ((1, "blod", "upright", 0), "did you mean 'bold'"),
        ((1, "bold", "uprigt", 0), "did you mean 'upright'"),
        ((1, "bold", "upright", 0, 17), "count 17"),
    ]:
        with pytest.raises(UserError, match=message):
            grammar.captions(*arguments)


def test_the_captions_of_a_batch_differ(splits, table):
    unique, rows = table.unique, table.rows
    assert len(set(unique)) == len(unique) > 4000
    assert [unique[r] for r in rows[5]] == list(splits["train"][5]["captions"])

    def pick(batch, rng):
        return {"row": rows[batch["index"], rng.integers(8, size=len(batch["index"]))]}

    stream = batches(splits["train"], 256, 0, pick)
    assert np.mean([len(set(stream(step)["row"])) for step in range(20)]) > 230
