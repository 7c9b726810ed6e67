"""What is said of the device that a command runs on."""

import os

import jax
import pytest

from diffusion_jax.parallel import accelerator
from diffusion_jax.typing import UserError


class Machine:
    """Which device files there are."""

    def __init__(self, *files):
        self.files = files

    def __call__(self, name):
        machine = self

        class File:
            def exists(self):
                return name in machine.files

        return File()


@pytest.mark.parametrize(
    ("files", "environment", "said"),
    [
        ([], {}, None),
        (["/dev/nvidia0"], {}, "an NVIDIA GPU, but JAX runs on the CPU: pip install -e '.[cuda]'"),
        (["/proc/driver/nvidia/version"], {}, "an NVIDIA GPU"),
        (["/dev/accel0"], {}, "a TPU, but JAX runs on the CPU: pip install -e '.[tpu]'"),
        ([], {"TPU_NAME": "v5e"}, "a TPU"),
        (["/dev/nvidia0"], {"JAX_PLATFORMS": "cpu"}, None),
        (["/dev/nvidia0"], {"JAX_PLATFORMS": "cuda"}, "an NVIDIA GPU"),
    ],
)
def test_an_idle_accelerator_is_named_with_what_to_install(monkeypatch, files, environment, said):
    for name in ("TPU_NAME", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(accelerator, "Path", Machine(*files))
    line = accelerator.idle_accelerator()
    assert line is None if said is None else said in line and "\n" not in line


@pytest.mark.parametrize("backend", ["gpu", "tpu"], ids=["graphics", "tensor"])
def test_nothing_is_said_where_the_accelerator_works(monkeypatch, backend):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(accelerator, "Path", Machine("/dev/nvidia0", "/dev/accel0"))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert accelerator.idle_accelerator() is None


@pytest.fixture
def cache_setting():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_configure_says_the_device_and_turns_the_cache_on(monkeypatch, tmp_path, cache_setting):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(accelerator, "idle_accelerator", lambda: "a GPU is idle")
    said = []
    accelerator.configure(said.append)
    assert said == [f"JAX {jax.__version__} on 8 x cpu", "a GPU is idle"]
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_a_backend_that_fails_is_one_line(monkeypatch, tmp_path, cache_setting):
    def fail():
        raise RuntimeError("Unable to initialize backend 'cuda'\nmore\nlines")

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(UserError, match=r"^JAX finds no device: Unable to initialize backend 'cuda'$"):
        accelerator.configure(print)


@pytest.mark.parametrize(
    ("version", "flags", "wanted"),
    [
        ("0.10.2", "", "--KEY=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"),
        ("0.10.2", "--a=1", "--a=1 --KEY=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"),
        ("0.10.2", "--KEY=", "--KEY="),
        ("0.12.0", "--a=1", "--a=1"),
    ],
)
def test_convolutions_use_all_cores_where_xla_is_of_jax_0_10_and_nobody_chose(monkeypatch, version, flags, wanted):
    monkeypatch.setenv("XLA_FLAGS", flags.replace("KEY", accelerator.YNN))
    monkeypatch.setattr(accelerator.jaxlib, "__version__", version)
    for _ in range(2):
        accelerator.spread_convolutions()
        assert os.environ["XLA_FLAGS"] == wanted.replace("KEY", accelerator.YNN)
