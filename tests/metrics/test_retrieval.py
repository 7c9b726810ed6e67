"""Retrieval: hand-built embeddings of known ranks, ties, equal captions, chance, brute force, refusals."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import SEEDS, random_rows, refused

from diffusion_jax.metrics.retrieval import ranks, recall, retrieval


def test_several_captions_an_image():
    """Scores by hand: image 0 has captions 0, 1, 2, image 1 has caption 3, image 2 has captions 4, 5."""
    image = np.eye(3, dtype=np.float32)
    text = np.array([[1, 9, 2], [8, 1, 2], [7, 6, 5], [3, 2, 1], [9, 1, 0], [6, 2, 4]], np.float32)
    found = retrieval(image, text, [0, 0, 0, 1, 2, 2], ks=(1, 2, 3, 4))
    # Image 0 sees 1 8 7 3 9 6: its best, 8, is second. Image 1 sees 9 1 6 2 1 2: its own 2 ties with caption 5 behind
    # 9 and 6. Image 2 sees 2 2 5 1 0 4: its best, 4, is second.
    assert found["image_to_text"] == pytest.approx({"r1": 0, "r2": 2 / 3, "r3": 2.5 / 3, "r4": 1, "median_rank": 2})
    # Of the captions' three scores, that of their image: 1 is third, 8 first, 7 first, 2 second, 0 third, 4 second.
    wanted = {"r1": 2 / 6, "r2": 4 / 6, "r3": 1, "r4": 1, "median_rank": 2}
    assert found["text_to_image"] == pytest.approx(wanted)
    np.testing.assert_allclose(ranks(image, text, np.arange(3), [0, 0, 0, 1, 2, 2]), [2, 3.5, 2])


def test_recall_counts_ranks_in_both_directions():
    image = np.eye(4)
    text = np.eye(4)[[1, 0, 2, 3]]  # the first two texts are swapped
    found = recall(image, text, ks=(1, 4))
    assert found == {"image_to_text": {"r1": 0.5, "r4": 1.0}, "text_to_image": {"r1": 0.5, "r4": 1.0}}
    same = recall(image, text, identity=["x", "x", "y", "z"], ks=(1,))
    assert same["image_to_text"]["r1"] == same["text_to_image"]["r1"] == 1.0


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_recall_is_the_brute_force_count(seed, k):
    image, text = np.random.default_rng(seed).normal(size=(2, 7, 3))
    scores = image @ text.T
    wanted = np.mean([np.sum(scores[i] > scores[i, i]) < k for i in range(7)])
    assert recall(image, text, ks=(k,))["image_to_text"][f"r{k}"] == pytest.approx(wanted)


def brute(scores, own, others, k):
    """Recall at k, ties broken by every order of the items: exact for a handful."""
    found = []
    for row, code in zip(scores, own, strict=True):
        hits = [
            any(others[i] == code for i in sorted(order, key=lambda i: -row[i])[:k])
            for order in itertools.permutations(range(len(row)))
        ]
        found.append(np.mean(hits))
    return np.mean(found)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(0, 2), st.integers(1, 6))
def test_ties_are_the_mean_over_all_orders(seed, images, extra, k):
    """Scores of few values, so that most are tied, against every order of up to six items."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 2, (images, 2)).astype(np.float32)
    of = np.concatenate([np.arange(images), rng.integers(0, images, extra)])
    text = rng.integers(0, 2, (len(of), 2)).astype(np.float32)
    found = retrieval(image, text, of, ks=(k,))
    scores = image @ text.T
    assert found["image_to_text"][f"r{k}"] == pytest.approx(brute(scores, np.arange(images), of, k))
    assert found["text_to_image"][f"r{k}"] == pytest.approx(brute(scores.T, of, np.arange(images), k))


def brute_pairs(scores, right, k):
    """The same where `right` [queries, items] says which items are right."""
    found = []
    for row, own in zip(scores, right, strict=True):
        orders = itertools.permutations(range(len(row)))
        found.append(np.mean([own[sorted(order, key=lambda i: -row[i])[:k]].any() for order in orders]))
    return np.mean(found)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(0, 2), st.integers(1, 6), st.integers(1, 4))
def test_equal_captions_are_right_for_one_another(seed, images, extra, k, block):
    """Few captions and scores of few values, so that most are equal, against every order of up to six items."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 2, (images, 2)).astype(np.float32)
    of = np.concatenate([np.arange(images), rng.integers(0, images, extra)])
    kind = rng.integers(0, 3, len(of))
    text = rng.integers(0, 2, (len(of), 2)).astype(np.float32)
    found = retrieval(image, text, of, ks=(k,), names=[f"caption {i}" for i in kind], block=block)
    right = np.array([[kind[j] in kind[of == i] for j in range(len(of))] for i in range(images)])
    scores = image @ text.T
    assert found["image_to_text"][f"r{k}"] == pytest.approx(brute_pairs(scores, right, k))
    assert found["text_to_image"][f"r{k}"] == pytest.approx(brute_pairs(scores.T, right.T, k))


def test_a_model_that_is_right_about_36_captions_of_240_pictures_has_recall_1():
    rng = np.random.default_rng(0)
    kind = np.concatenate([np.arange(36), rng.integers(0, 36, 204)])
    rows = random_rows(rng, 36)[kind]
    captions = [f"caption {i}" for i in kind]
    found = retrieval(rows, rows, names=captions)
    assert all(found[way]["r1"] == found[way]["median_rank"] == 1 for way in found)
    assert found["image_to_text"]["r1"] == recall(rows, rows, identity=captions)["image_to_text"]["r1"]
    # By rows alone each of the copies is found with the chance of a draw among them.
    assert retrieval(rows, rows)["image_to_text"]["r1"] == pytest.approx(36 / 240)
    assert retrieval(rows, rows, names=range(240)) == retrieval(rows, rows)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(2, 12), st.integers(1, 30))
def test_no_order_of_rows_and_no_block_matters(seed, images, block):
    rng = np.random.default_rng(seed)
    of = np.concatenate([np.arange(images), rng.integers(0, images, 2 * images)])
    image, text = (
        rng.integers(-2, 3, (images, 3)).astype(np.float32),
        rng.integers(-2, 3, (len(of), 3)).astype(np.float32),
    )
    wanted = retrieval(image, text, of)
    rows, columns = rng.permutation(images), rng.permutation(len(of))
    moved = retrieval(image[rows], text[columns], np.argsort(rows)[of[columns]], block=block)
    for direction, numbers in wanted.items():
        assert moved[direction] == pytest.approx(numbers)
        assert numbers["r1"] <= numbers["r5"] <= numbers["r10"]


@pytest.mark.parametrize("value", [1.0, 0.1234])
def test_constant_embeddings_score_chance(value):
    """R@k = k / n for one right answer of n, not 100%; of five captions among 5n, 1 - C(5n - 5, k) / C(5n, k)."""
    same = np.full((100, 4), value, np.float32)
    found = retrieval(same[:20], same, np.repeat(np.arange(20), 5))
    wanted = {"r1": 1 / 20, "r5": 5 / 20, "r10": 10 / 20, "median_rank": 10.5}
    assert found["text_to_image"] == pytest.approx(wanted)
    chance = {f"r{k}": 1 - math.comb(95, k) / math.comb(100, k) for k in (1, 5, 10)}
    assert found["image_to_text"] == pytest.approx(chance | {"median_rank": 1 + 95 / 6})
    assert recall(same, same)["image_to_text"] == pytest.approx({"r1": 0.01, "r5": 0.05})


def test_random_embeddings_score_chance_and_equal_ones_all():
    rng = np.random.default_rng(0)
    rows = random_rows(rng, 2000)
    found = retrieval(rows, random_rows(rng, 2000), ks=(1, 200))
    assert found["image_to_text"]["r200"] == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 2000))
    assert found["image_to_text"]["r1"] < 0.005
    assert 900 < found["text_to_image"]["median_rank"] < 1100
    assert retrieval(rows, rows)["image_to_text"] == {"r1": 1.0, "r5": 1.0, "r10": 1.0, "median_rank": 1.0}


def test_the_whole_matrix_is_never_made():
    rows = random_rows(np.random.default_rng(0), 1500)
    tracemalloc.start()
    retrieval(rows, rows, block=25)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1500 * 1500 * 4 / 5  # bytes: a fifth of the matrix in float32


def test_retrieval_refuses():
    rows = np.eye(3, dtype=np.float32)
    refused(lambda: retrieval(rows, np.eye(4, 3)), "4 texts for 3 images", "image_of")
    refused(lambda: retrieval(rows, rows, [0, 1]), "(2,)", "3 integers")
    refused(lambda: retrieval(rows, rows, [0, 1, 3]), "image 3 of 3", "nearest: 2")
    refused(lambda: retrieval(rows, rows, [0, 1, 1]), "image 2 has no text")
    refused(lambda: retrieval(rows, np.eye(3, 4), [0, 1, 2]), "3 and 4 numbers")
    refused(lambda: retrieval(rows, rows * np.nan), "not finite")
    refused(lambda: retrieval(rows, rows, names=["a", "b"]), "2 names for 3 texts")
    refused(lambda: retrieval(rows, rows, names="abc"), "'abc' is one text: give a list")
    refused(lambda: recall(rows, rows, identity="abc"), "'abc' is one text: give a list")
    refused(lambda: retrieval(rows[:0], rows[:0]), "0 and 0 rows")
    refused(lambda: retrieval(rows, rows, ks=(0,)), "(0,)")
    refused(lambda: retrieval(rows, rows, block=0), "block 0")
    refused(lambda: recall(rows, rows, identity=["a"]), "1 identities")
    refused(lambda: ranks(rows, rows, [0, 1, 2], [0, 1, 7]), "query 2 has no item")
