"""The import directions of the package, read from the source, and what importing it must not pull in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "diffusion_jax"

# A layer may import itself, `typing`, and these.
ALLOWED = {
    "typing": set(),
    "config": set(),
    "process": set(),
    "sampling": {"process"},
    "contrastive": set(),
    "nets": set(),
    "parallel": set(),
    "systems": {"process", "sampling", "contrastive", "nets"},
    "train": {"parallel"},
    "convert": set(),
    "data": set(),
    "evals": set(),
}
WITHOUT_FLAX = ("process", "sampling", "contrastive")
COMPOSERS = {
    "clip_evaluation",
    "clip_task",
    "task",
    "build",
    "clip_run",
    "pretrained",
    "likelihoods",
    "run",
    "steering",
    "training",
    "evaluation",
    "cli",
    "__init__",
    "__main__",
}


def modules() -> list[tuple[str, Path]]:
    return [(path.relative_to(PACKAGE).with_suffix("").parts[0], path) for path in sorted(PACKAGE.rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layers(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith("diffusion_jax.")}


def test_every_file_belongs_to_a_known_layer():
    assert {layer for layer, _ in modules()} <= ALLOWED.keys() | COMPOSERS


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_a_layer_imports_only_what_stands_below_it(layer):
    for name, path in modules():
        if name == layer:
            wrong = layers(path) - ALLOWED[layer] - {layer, "typing"}
            known = {other for other, _ in modules()}
            assert not wrong & known, f"{path} imports {sorted(wrong & known)}"


@pytest.mark.parametrize("layer", WITHOUT_FLAX)
def test_the_mathematics_knows_no_network_library(layer):
    for name, path in modules():
        if name == layer:
            roots = {module.split(".")[0] for module in imported(path)}
            assert not roots & {"flax", "optax", "orbax", "clu", "ml_collections"}, path


def test_configs_import_only_ml_collections():
    for path in (ROOT / "configs").glob("*.py"):
        assert {module.split(".")[0] for module in imported(path)} <= {"ml_collections"}, path


def test_nothing_imports_tensorflow_or_pytorch():
    """But for the one function that reads PyTorch's own files, where PyTorch is installed."""
    for _, path in modules():
        roots = {module.split(".")[0] for module in imported(path)}
        allowed = {"torch"} if path == PACKAGE / "convert" / "files.py" else set()
        assert not roots & {"tensorflow", "torch"} - allowed, path


def test_importing_the_package_is_light():
    """No TensorFlow, PyTorch, and none of the libraries that a GPU machine may lack."""
    code = """
import sys
import diffusion_jax, diffusion_jax.process, diffusion_jax.sampling, diffusion_jax.nets, diffusion_jax.systems.clip.loss
import diffusion_jax.convert, diffusion_jax.systems.diffusion.loss, diffusion_jax.train.step, diffusion_jax.train.optim
heavy = {"tensorflow", "torch", "clu", "ml_collections", "tensorflow_datasets", "grain", "sklearn", "matplotlib"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_files_can_be_read_in_one_sitting():
    long = {str(path): n for _, path in modules() if (n := len(path.read_text().splitlines())) > 400}
    assert not long
