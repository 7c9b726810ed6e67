"""What is said of emoji, what is held out of them, and what reads them."""

import numpy as np
import pytest
from emoji_made import made_file, made_pictures

from diffusion_jax import build
from diffusion_jax.config import load_config
from diffusion_jax.data.pairs import pair_batches
from diffusion_jax.systems.diffusion.data import examples
from diffusion_jax.training import validate
from diffusion_jax.typing import UserError
from experiments.emoji.captions import captions, full, with_article
from experiments.emoji.pictures import TONE_NAMES
from experiments.emoji.source import SPLITS, Emoji, held_pairs
from experiments.emoji.vocabulary import learned
from experiments.emoji.words import Word, family

CAT = Word("grinning cat", ("cat", "smile", "teeth"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(made_file(tmp_path_factory.mktemp("emoji")))


def split(file, name, **options):
    return Emoji(file, name, **{"validation": 0.15, "test": 0.2, "tones": 5, **options})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cat face", "a cat face"),
        ("eagle", "an eagle"),
        ("unicorn", "a unicorn"),
        ("glass of milk", "a glass of milk"),
        ("bus", "a bus"),
        ("grapes", "grapes"),
        ("palms up together", "palms up together"),
        ("man running", "man running"),
        ("flag of japan", "flag of japan"),
        ("1st place medal", "1st place medal"),
    ],
)
def test_a_name_has_the_article_that_it_takes(name, said):
    assert with_article(name) == said


def test_captions_say_name_and_style_and_leave_the_style_out():
    said = captions(CAT, "", "noto", "1f63a", 8)
    assert said[0] == "a grinning cat, noto style" == full(CAT, "", "noto")
    assert len(set(said)) == 8 and said == captions(CAT, "", "noto", "1f63a", 8)
    assert sum("noto" not in text for text in said) == 2
    other = captions(CAT, "", "openmoji", "1f63a", 8)
    assert {text for text in said if "noto" not in text} == {text for text in other if "openmoji" not in text}
    assert full(Word("raised hand"), "dark skin tone", "noto") == "a raised hand, dark skin tone, noto style"
    bare = captions(Word("keycap 1"), "", "openmoji", "31", 12)
    assert len(set(bare)) == len(bare) == 6 and "an openmoji style emoji of keycap 1" in bare
    with pytest.raises(UserError, match=r"count 13 of captions is not in 1 \.\. 12; nearest: 12"):
        captions(CAT, "", "noto", "1f63a", 13)


def test_every_picture_is_in_one_split(file):
    found = [split(file, name).rows for name in SPLITS]
    assert sorted(np.concatenate(found)) == list(range(len(made_pictures())))
    assert all(len(rows) for rows in found)


def test_families_are_held_out_whole(file):
    families = {
        name: {family(source.all.words[subject].name) for subject in source.subjects}
        for name in SPLITS
        for source in (split(file, name),)
    }
    for name in ("validation", "test"):
        for other in ("train", "pairs"):
            assert not families[name] & families[other]
    assert not families["validation"] & families["test"] and families["pairs"] <= families["train"]


def test_a_pair_is_held_out_in_every_tone_and_both_halves_are_trained_on(file):
    train, pairs = split(file, "train"), split(file, "pairs")
    trained = set(zip(train.subjects, train.labels, strict=True))
    held = set(zip(pairs.subjects, pairs.labels, strict=True))
    assert len(held) > 10 and not held & trained
    for subject, style in held:
        assert {other for other in range(3) if other != style} == {s for name, s in trained if name == subject}
    assert {style for _, style in held} == {0, 1, 2} == {style for _, style in trained}
    share = len({subject for subject, _ in held}) / len({subject for subject, _ in trained})
    assert 0.15 < share < 0.45
    assert not held_pairs(made_pictures(styles=1), 0.9).any()


def test_tones_are_thinned_the_same_in_every_style(file):
    kept = split(file, "train", tones=2, pairs=0.0)
    by_style = {
        style: {
            (subject, tone)
            for subject, tone in zip(kept.subjects[kept.labels == style], kept.tones[kept.labels == style])
        }
        for style in range(3)
    }
    assert by_style[0] == by_style[1] == by_style[2]
    toned = {subject for subject, tone in by_style[0] if tone}
    assert all(sum(name == subject and tone > 0 for name, tone in by_style[0]) == 2 for subject in toned)
    assert not split(file, "train", tones=0).tones.any() and len(toned) > 5


def test_an_item_is_what_the_columns_say(file):
    source = split(file, "train")
    columns = source.columns()
    for index in (0, 7, len(source) - 1):
        item = source[index]
        assert np.array_equal(item["image"], columns["image"][index]) and item["image"].dtype == np.uint8
        assert item["label"] == columns["label"][index] and item["image"][0, 0, 0] == 100 * item["label"]
        assert source.class_names[item["label"]] in item["captions"][0] and item["name"] == source.full_caption(index)
        tone = TONE_NAMES[source.tones[index]]
        assert tone in item["name"] and source.subject_caption(index) in item["name"]
    assert source[-1]["name"] == source[len(source) - 1]["name"]
    with pytest.raises(IndexError):
        source[len(source)]
    assert len(source.prompts) == 8 and all("style" in prompt for prompt in source.prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tests"}, "split 'tests' .*'test'"),
        ({"test": 1.0}, r"'data.test' is 1.0; it is a share"),
        ({"tones": 6}, "'data.tones' is 6"),
        ({"fingerprint": "others"}, r"was drawn from other inputs \(fingerprint\) .*\(others\)"),
        ({"path": "nowhere.npz"}, "there are no emoji in 'nowhere.npz': python -m experiments.emoji"),
        ({"split": "pairs", "pairs": 0.0}, "split 'pairs' .* is empty: it needs several styles"),
    ],
)
def test_what_a_source_cannot_be_is_one_line(file, options, message):
    options = {"path": file, "split": "train", **options}
    with pytest.raises(UserError, match=message):
        Emoji(options.pop("path"), options.pop("split"), **options)


def test_both_configs_read_it(file, tmp_path):
    """The whole of what is read: pictures as they are for diffusion, cropped ones with captions for CLIP."""
    shares = {"data.path": file, "data.fingerprint": "fingerprint", "data.test": "0.2", "data.validation": "0.15"}
    diffusion = load_config("configs/emoji_diffusion.py:small", shares)
    validate(diffusion)
    train = examples(diffusion, "train", (32, 32, 3))
    source = Emoji(file, "train", validation=0.15, test=0.2)
    assert len(train) == len(source) and np.array_equal(train[3]["image"], source[3]["image"])
    assert hasattr(train, "columns")  # gathered at once: nothing is decoded
    vocabulary = learned(diffusion.data, 30, tmp_path / "words", lambda text: None)
    clip = load_config("configs/emoji_clip.py:small", shares | {"tokenizer.path": str(vocabulary)})
    validate(clip)
    prepare = build.preprocess(clip.preprocess, {"vision": {"image_size": 32}, "logit_bias": False})
    tokenizer = build.tokenizer(clip.tokenizer, 20)
    batches = pair_batches(source, 8, 0, build.cropping(prepare, build.reading(clip.data)), tokenizer, identity=True)
    batch = batches(0)
    assert batch["image"].shape == (8, 32, 32, 3) and batch["tokens"].shape == (8, 20)
    assert "style" in " ".join(tokenizer.decode(row) for row in batch["tokens"])
    said: list[str] = []
    assert learned(diffusion.data, 30, vocabulary, said.append) == vocabulary and "reusing" in said[0]
