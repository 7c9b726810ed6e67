"""Measures of contrastive models: hand-built embeddings of known ranks, chance, invariances, brute force, refusals."""

import inspect
import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.multihost_utils import process_allgather
from rows import SEEDS, random_rows, refused, unit

from diffusion_jax.metrics.clip_score import PREFIX, clip_score, ref_clip_score
from diffusion_jax.metrics.linear_probe import linear_probe
from diffusion_jax.metrics.zero_shot import ZeroShot, class_embeddings, classify, topk_accuracy, zero_shot


def identity(images):
    return np.asarray(images)


class Words:
    """A text encoder with a random row a prompt, which remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked.append(list(texts))
        return unit(np.stack([np.random.default_rng(list(text.encode())).normal(size=6) for text in texts]))


# Zero-shot


def test_a_classs_embedding_is_the_unit_mean_of_its_prompts():
    """Two prompts at right angles: the mean lies between them, at unit length."""
    table = {"a cat": [1.0, 0, 0], "cat": [0, 1.0, 0], "a dog": [0, 0, 1.0], "dog": [0, 0, 1.0]}
    found = class_embeddings(lambda texts: np.array([table[t] for t in texts]), ("cat", "dog"), ("a {}", "{}"))
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5, 0], [0, 0, 1]], atol=1e-7)
    images = np.array([[0.9, 0.1, 0.0], [0.1, 0.1, 0.9], [0.1, 0.2, 0.9]])
    ranked = classify(images, found)
    np.testing.assert_array_equal(ranked, [[0, 1], [1, 0], [1, 0]])
    assert topk_accuracy(ranked, np.array([0, 1, 0])) == pytest.approx(2 / 3)
    assert topk_accuracy(ranked, np.array([0, 1, 0]), k=2) == 1.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["cat", "dog", "crane", "{x}"]), min_size=1, max_size=8), st.integers(1, 7))
def test_each_prompt_is_encoded_once_whatever_the_batch(names, batch_size):
    """Names may repeat (ImageNet has two cranes), and templates; the mean is that of all prompts of the class."""
    templates = ("a {}", "{}", "a {}")
    words = Words()
    found = class_embeddings(words, names, templates, batch_size=batch_size)
    asked = list(itertools.chain(*words.asked))
    assert len(asked) == len(set(asked)) == 2 * len(set(names))
    assert max(map(len, words.asked)) <= batch_size
    for name, row in zip(names, found, strict=True):
        mean = Words()([t.replace("{}", name) for t in templates]).astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


def test_counts_of_a_hand_built_set():
    """Three classes on the axes; labels 0, 0, 1, 1, 1 and nothing of class 2."""
    images = np.array([[3, 2, 1], [1, 3, 2], [2, 3, 1], [3, 1, 2], [2, 1, 3]], np.float32)
    found = zero_shot(identity, np.eye(3, dtype=np.float32), [(images, np.array([0, 0, 1, 1, 1]))], ks=(1, 2, 5))
    np.testing.assert_array_equal(found.confusion, [[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    assert found.accuracy() == pytest.approx(2 / 5)
    assert found.accuracy(2) == pytest.approx(2 / 5)
    assert found.accuracy(5) == 1.0
    np.testing.assert_allclose(found.per_class, [1 / 2, 1 / 3, np.nan])
    assert found.mean_per_class == pytest.approx(5 / 12)
    wanted = {"top1": 2 / 5, "top2": 2 / 5, "top5": 1.0, "mean_per_class": 5 / 12, "images": 5}
    assert found.summary() == pytest.approx(wanted)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 9), st.integers(1, 40), st.integers(1, 6))
def test_counts_of_parts_add_up_and_agree_with_the_sort(seed, classes, images, parts):
    """However a set is cut over batches and processes, the counts are those of all of it; ties included."""
    rng = np.random.default_rng(seed)
    # Small integers: their products are exact in batches of any size, and many are tied.
    rows, texts = (rng.integers(-2, 3, (count, 3)).astype(np.float32) for count in (images, classes))
    labels = rng.integers(0, classes, images)
    whole = zero_shot(identity, texts, [(rows, labels)])
    ranked = classify(rows, texts)
    for k in (1, 5):
        assert whole.accuracy(k) == pytest.approx(topk_accuracy(ranked, labels, k))
    order = rng.permutation(images)
    slices = np.array_split(order, parts)  # some of them empty when there are more parts than images
    shares = [zero_shot(identity, texts, ((rows[i : i + 1], labels[i : i + 1]) for i in part)) for part in slices]
    total = shares[0]
    for share in shares[1:]:
        total = total + share
    np.testing.assert_array_equal(total.confusion, whole.confusion)
    np.testing.assert_array_equal(total.hits, whole.hits)
    gathered = jax.tree.map(lambda leaf: leaf.sum(axis=0), process_allgather(total))
    assert isinstance(gathered, ZeroShot)
    assert gathered.summary() == whole.summary()


def test_one_batch_at_a_time():
    """The iterator is asked for the next batch when the last is done: a set need not fit in memory."""
    done, asked = [], []

    def stream():
        for i in range(4):
            assert len(done) == i
            asked.append(i)
            yield np.eye(3, dtype=np.float32), np.arange(3)

    found = zero_shot(lambda x: done.append(len(x)) or x, np.eye(3, dtype=np.float32), stream())
    assert asked == [0, 1, 2, 3]
    assert found.images == 12
    assert found.accuracy() == 1.0


def test_embeddings_without_information_score_chance():
    labels = np.repeat(np.arange(10), 30)
    same = np.ones((300, 4), np.float32) / 2
    assert zero_shot(identity, same[:10], [(same, labels)]).accuracy() == pytest.approx(0.1)
    assert zero_shot(identity, same[:10], [(same, labels)]).accuracy(5) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 500)
    found = zero_shot(identity, random_rows(rng, 10), [(random_rows(rng, 5000), labels)])
    assert found.accuracy() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 5000))
    assert found.accuracy(5) == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 5000))


def test_one_label_or_one_name_alone_is_refused():
    ranked = np.array([[1, 0], [0, 1]])
    top = inspect.unwrap(topk_accuracy)
    refused(lambda: top(ranked, 1), "labels ()", "[images]")
    refused(lambda: top(ranked[0], ranked[:, 0]), "ranks (2,)")
    refused(lambda: top(ranked[:0], ranked[:0, 0]), "ranks (0, 2)")
    refused(lambda: top(ranked, ranked[:, 0], True), "k True is not a whole number of at least 1")
    classes = inspect.unwrap(class_embeddings)
    refused(lambda: classes(Words(), ["cat", 3], ["{}"]), "class names[1] is a int, which is not text")
    refused(lambda: classes(Words(), ["cat"], [None]), "templates[0] is a NoneType")


def test_zero_shot_refuses():
    eye = np.eye(3, dtype=np.float32)
    refused(lambda: class_embeddings(Words(), "cat", ["{}"]), "'cat'", "list")
    refused(lambda: class_embeddings(Words(), [], ["{}"]), "class names []")
    refused(lambda: class_embeddings(Words(), ["cat"], "a {}"), "templates 'a {}'")
    refused(lambda: class_embeddings(Words(), ["cat"], ["a photo"]), "'a photo'", "0 places")
    refused(lambda: class_embeddings(Words(), ["cat"], ["{} {}"]), "2 places")
    refused(lambda: class_embeddings(lambda t: np.zeros((len(t), 3)), ["cat", "dog"], ["{}"]), "'cat'", "zero")
    refused(lambda: class_embeddings(lambda t: np.full((len(t), 3), np.nan), ["cat"], ["{}"]), "not finite")
    refused(lambda: class_embeddings(lambda t: np.zeros((1, 3)), ["cat", "dog"], ["{}"]), "(1, 3)", "2 prompts")
    refused(lambda: zero_shot(identity, eye, [(eye, np.array([0, 1, 3]))]), "label 3", "nearest: 2")
    refused(lambda: zero_shot(identity, eye, [(eye, np.array([0, 1, -1]))]), "label -1", "nearest: 0")
    refused(lambda: zero_shot(identity, eye, [(eye, np.eye(3))]), "(3, 3)")
    refused(lambda: zero_shot(identity, eye, [(eye * np.nan, np.arange(3))]), "not finite")
    refused(lambda: zero_shot(identity, eye, [(eye, np.arange(2))]), "(3, 3)", "2 labels")
    refused(lambda: zero_shot(identity, eye, [], ks=(0,)), "(0,)")
    refused(lambda: zero_shot(identity, eye, []).accuracy(), "0 images")
    refused(lambda: zero_shot(identity, eye, []).summary(), "0 images")
    refused(lambda: zero_shot(identity, eye, [(eye, np.arange(3))]).accuracy(2), "top-2")
    refused(lambda: zero_shot(identity, eye, []) + zero_shot(identity, np.eye(4, dtype=np.float32), []), "3", "4")


# CLIP score


def test_clip_score_has_its_closed_form():
    """Cosines 1, 1/2, 0 and -1, whatever the lengths: 2.5, 1.25, 0 and 0."""
    image = np.array([[2, 0], [1, 0], [3, 0], [1, 0]], np.float32)
    text = np.array([[5, 0], [1, 3**0.5], [0, 1], [-1, 0]], np.float32)
    np.testing.assert_allclose(clip_score(image, text), [2.5, 1.25, 0, 0], atol=1e-6)
    assert clip_score(image, text).mean() == pytest.approx(0.9375)
    assert PREFIX == "A photo depicts "


def test_ref_clip_score_is_the_harmonic_mean_with_the_best_reference():
    image = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    text = np.array([[1, 0], [1, 3**0.5], [0, 1]], np.float32)  # CLIP-S 2.5, 1.25, 0
    references = np.array([[0, 1], [1, 3**0.5], [1, 0], [1, 3**0.5], [0, 1], [0, -1]], np.float32)
    found = ref_clip_score(image, text, references, [0, 0, 1, 1, 2, 2])
    # Best references: cos 1/2, 1, 1. Means: 2 x 2.5 x 0.5 / 3, 2 x 1.25 / 2.25, 0.
    np.testing.assert_allclose(found, [2.5 / 3, 2.5 / 2.25, 0], atol=1e-6)
    far = np.array([[-1, 0], [0, 1], [0, -1]], np.float32)
    np.testing.assert_allclose(
        ref_clip_score(image, text, far, [0, 1, 2]), [0, 2 * 1.25 * 0.75**0.5 / (1.25 + 0.75**0.5), 0], atol=1e-6
    )


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 9))
def test_scores_go_with_their_pairs(seed, count):
    rng = np.random.default_rng(seed)
    image, text = random_rows(rng, count), random_rows(rng, count)
    of = np.concatenate([np.arange(count), rng.integers(0, count, 5)])
    references, order, rows = random_rows(rng, len(of)), rng.permutation(len(of)), rng.permutation(count)
    scores, ref = clip_score(image, text), ref_clip_score(image, text, references, of)
    assert ((scores >= 0) & (scores <= 2.5)).all()
    np.testing.assert_allclose(clip_score(image[rows], text[rows]), scores[rows], atol=1e-6)
    np.testing.assert_allclose(clip_score(text, image), scores, atol=1e-6)
    again = ref_clip_score(image[rows], text[rows], references[order], np.argsort(rows)[of[order]])
    np.testing.assert_allclose(again, ref[rows], atol=1e-6)
    best = ref_clip_score(image, text, np.concatenate([references, text]), np.concatenate([of, np.arange(count)]))
    np.testing.assert_allclose(best, 2 * scores / (scores + 1), atol=1e-6)


def test_clip_score_refuses():
    rows = np.eye(3, dtype=np.float32)
    refused(lambda: clip_score(rows, np.eye(3, 4)), "(3, 3)", "(3, 4)")
    refused(lambda: clip_score(rows * np.array([[1], [0], [1]]), rows), "image embedding 1", "zero")
    refused(lambda: clip_score(rows, rows * np.nan), "text embedding 0")
    refused(lambda: clip_score(rows[:0], rows[:0]), "(0, 3)")
    refused(lambda: ref_clip_score(rows, rows, rows, [0, 1, 1]), "pair 2 has no reference")
    refused(lambda: ref_clip_score(rows, rows, rows, [0, 1, 3]), "pair 3 of 3")
    refused(lambda: ref_clip_score(rows, rows, rows, [0, 1]), "3 integers")
    refused(lambda: ref_clip_score(rows, rows, np.eye(3, 4), [0, 1, 2]), "4 numbers")


# Linear probe


def clusters(rng, count, spread, classes=3, width=5):
    centres = 4 * np.eye(classes, width)
    labels = np.arange(count) % classes
    return (centres[labels] + spread * rng.normal(size=(count, width))).astype(np.float32), labels


def test_a_probe_separates_what_is_separable_and_scores_chance_on_noise():
    rng = np.random.default_rng(0)
    found = linear_probe(clusters(rng, 60, 0.3), clusters(rng, 60, 0.3), clusters(rng, 30, 0.3))
    assert found.accuracy == 1.0
    assert found.converged
    assert found.validation[found.c] == 1.0
    assert found.c == min(c for c, score in found.validation.items() if score == 1.0)  # the strongest penalty of equals
    x, y = rng.normal(size=(300, 5)).astype(np.float32), np.arange(300) % 3
    noise = linear_probe((x[:100], y[:100]), (x[100:], y[100:]))
    assert noise.accuracy == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / 200))


def test_the_sweep_is_the_papers_to_an_eighth_of_a_decade():
    """The chosen C beats both neighbours at an eighth of a decade, and the first sweep is whole."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(90, 30)).astype(np.float32), np.arange(90) % 3
    x[:, :3] += 1.2 * np.eye(3)[y]
    found = linear_probe((x[:45], y[:45]), (x[45:], y[45:]), (x[60:], y[60:]))
    exponents = np.log10(list(found.validation))
    assert {-6, -4, -2, 0, 2, 4, 6} <= set(np.round(exponents, 6))
    assert len(exponents) <= 15
    best = max(found.validation.values())
    assert found.validation[found.c] == best
    near = [e for e in exponents if 0 < abs(e - np.log10(found.c)) < 0.126]
    assert len(near) == 2
    again = linear_probe((x[:45], y[:45]), (x[45:], y[45:]), (x[60:], y[60:]))
    assert again == found


def test_the_last_fit_has_all_rows_but_the_tests():
    """scikit-learn at the chosen C on training and validation rows; one iteration is told as not converged."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    train, test, valid = (clusters(rng, n, 2.0) for n in (45, 60, 30))
    found = linear_probe(train, test, valid)
    x, y = np.concatenate([train[0], valid[0]]), np.concatenate([train[1], valid[1]])
    model = LogisticRegression(C=found.c, max_iter=1000).fit(x, y)
    assert found.accuracy == pytest.approx((model.predict(test[0]) == test[1]).mean())
    np.testing.assert_array_equal(found.model.coef_, model.coef_)
    assert not linear_probe(train, test, valid, max_iter=1).converged


def test_linear_probe_refuses():
    rng = np.random.default_rng(0)
    x, y = clusters(rng, 12, 1.0)
    refused(lambda: linear_probe((x, y * 0), (x, y)), "label 0", "two")
    refused(lambda: linear_probe((x, y), (x[:, :4], y)), "test features have 4", "5")
    refused(lambda: linear_probe((x * np.nan, y), (x, y)), "train features of row 0", "not finite")
    refused(lambda: linear_probe((x, np.r_[y[:-1], 9]), (x, y)), "class 9 has one")
    refused(lambda: linear_probe((x, y), (x, y), valid_share=1.0), "valid_share 1.0")
    refused(lambda: linear_probe((x, y), (x[:0], y[:0])), "test features (0, 5)")
