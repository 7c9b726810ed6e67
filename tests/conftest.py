"""The suite runs on eight simulated CPU devices; warnings, NaN and rank promotion are errors; shapes are checked."""

import fcntl
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FLAGS: dict[str, object] = {"xla_force_host_platform_device_count": 8}
# Compiling takes most of the time of a first run. Three quarters of that are spared by XLA's plain emitters without LLVM's
# optimisations and its threads; `make test-all` compiles as users do. Only the XLA of jax 0.10 is known to have the choice of
# emitters, and a flag that XLA does not know ends the process.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    FLAGS |= {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}
    if version("jaxlib").startswith("0.10."):
        FLAGS["xla_cpu_use_fusion_emitters"] = "false"
for flag, value in FLAGS.items():
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{flag}={value}"

from checked import check_types

check_types("diffusion_jax")

import jax
import pytest
from processes import CACHE

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_nans", True)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`once(name, make)`: the folder that `make(folder)` filled, once a session and not once a worker. To be read alone."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, also by a worker that fails
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


def pytest_collection_finish() -> None:
    """Thousands of tests and the modules that they import stay to the end: the collector need not search them again."""
    gc.collect()
    gc.freeze()


MAPS = Path("/proc/self/maps")


def _few_memory_maps() -> None:
    """Lets compiled programs go before a process has 65,530 memory maps, at which Linux ends it by a segmentation fault.

    Each program on the CPU takes a dozen; what is needed again comes from the persistent cache.
    """
    if MAPS.exists() and len(MAPS.read_bytes().splitlines()) > 15_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True, scope="module")
def _after_a_module() -> Iterator[None]:
    yield
    _few_memory_maps()


@pytest.fixture(autouse=True)
def _after_a_slow_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """A module of slow tests may fill a process by itself."""
    yield
    if "slow" in request.keywords:
        _few_memory_maps()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Parity and GPU tests run only when asked for by `-m`."""
    asked = config.getoption("-m") or ""
    for item in items:
        for marker in ("parity", "gpu", "slow"):
            if marker in item.keywords and marker not in asked:
                item.add_marker(pytest.mark.skip(reason=f"run with -m {marker}"))
