"""What is written is whole: the old file or the new one, never half of one."""

import pytest

from diffusion_jax.files import check_file, check_folder, write_atomic
from diffusion_jax.typing import UserError


def test_write_atomic_replaces_or_leaves(tmp_path):
    path = write_atomic(tmp_path / "a", b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(tmp_path / "folder", b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "folder"]


@pytest.mark.parametrize("check", [check_file, check_folder])
def test_the_root_is_no_place_to_write_at(check):
    with pytest.raises(UserError, match="'/' is the root of the file system"):
        check("/")
