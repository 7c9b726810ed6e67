"""What `pip install` makes: an editable install found from every folder, a wheel and an sdist that hold what they must."""

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from diffusion_jax import __version__

ROOT = Path(__file__).parent.parent
FOUND = "import diffusion_jax; from diffusion_jax import __version__; print(diffusion_jax.__file__)"


def said(code: str, folder: Path, *flags: str) -> str:
    """What a Python that stands in `folder` prints; its own complaint where it fails."""
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """parent/diffusion_jax, a clone as it is without its history, its caches and its tests' data."""
    folder = tmp_path / "parent" / "diffusion_jax"
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "diffusion_jax", folder / "diffusion_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    (folder / "tests").mkdir()
    shutil.copy(__file__, folder / "tests")
    return folder


@pytest.mark.parametrize("standing", ["parent", "parent/diffusion_jax", "elsewhere"])
def test_the_install_of_this_environment_is_found_from_every_folder(standing, tmp_path):
    """A folder of the package's name, as the clone itself is, hides an install that is found after the path is."""
    (tmp_path / "parent").mkdir()
    (tmp_path / "parent" / "diffusion_jax").symlink_to(ROOT)
    (tmp_path / "elsewhere").mkdir()
    assert Path(said(FOUND, tmp_path / standing)).resolve() == (ROOT / "diffusion_jax" / "__init__.py").resolve()


def built(clone: Path, what: str, out: Path) -> Path:
    """The file that `setuptools` builds of the clone, by the hook that pip calls; nothing is downloaded."""
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    if int(version.split(".")[0]) < 77:
        pytest.skip(f"setuptools {version} is older than pyproject.toml's 77: pip install -e '.[dev]'")
    out.mkdir()
    code = f"from setuptools import build_meta as hooks; print(hooks.{what}({str(out)!r}))"
    return out / said(code, clone).splitlines()[-1]


def test_an_editable_install_is_a_path(clone, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(built(clone, "build_editable", tmp_path / "out")) as wheel:
        wheel.extractall(site)
    (path,) = site.glob("*.pth")
    assert Path(path.read_text().strip()).resolve() == clone.resolve()
    # Without the site-packages of this environment, only with the folder above.
    code = f"import site; site.addsitedir({str(site)!r}); {FOUND}"
    for folder in (clone.parent, clone, tmp_path):
        found = Path(folder, said(code, folder, "-S"))
        assert found.resolve() == (clone / "diffusion_jax" / "__init__.py").resolve()


def test_wheel_and_sdist_hold_the_package_whole_and_no_tests(clone, tmp_path):
    package = {str(path.relative_to(clone)) for path in (clone / "diffusion_jax").rglob("*") if path.is_file()}
    with zipfile.ZipFile(built(clone, "build_wheel", tmp_path / "wheel")) as wheel:
        names = set(wheel.namelist())
    assert {name for name in names if ".dist-info/" not in name} == package
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with tarfile.open(built(clone, "build_sdist", tmp_path / "sdist")) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert package | {"pyproject.toml", "README.md", "LICENSE"} <= names
    assert not [name for name in names if name.startswith("tests")]


def test_the_package_and_its_metadata_are_of_one_version():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
