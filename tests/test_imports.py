"""The import directions of the package, read from the source, and what importing it must not pull in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_jax.systems.table import SYSTEMS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "diffusion_jax"

# A layer may import itself, `typing`, `files`, and these.
MATHEMATICS = {"process", "sampling", "contrastive", "nets"}
BELOW = {"data", "metrics", "report", "convert", "train", "parallel", "config"}
ALLOWED = {
    "typing": set(),
    "files": set(),
    "config": set(),
    "process": set(),
    "sampling": {"process"},
    "contrastive": set(),
    "nets": set(),
    "parallel": set(),
    "train": {"parallel"},
    "convert": set(),
    "data": set(),
    "metrics": set(),
    "report": {"metrics"},
    "build": MATHEMATICS | BELOW,
    "runs": {"build", "config"},
    "systems": MATHEMATICS | BELOW | {"build", "runs"},
    "training": BELOW | {"build", "runs", "systems"},
    "cli": BELOW | {"build", "runs", "systems", "training"},
    "__init__": set(),
    "__main__": {"cli"},
}
WITHOUT_FLAX = ("process", "sampling", "contrastive")
LOOSE = {"typing", "config", "runs", "training"}


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
    assert {layer for layer, _ in modules()} <= ALLOWED.keys()
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert loose >= LOOSE and len(loose - LOOSE) <= 2


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_a_layer_imports_only_what_stands_below_it(layer):
    for name, path in modules():
        if name == layer:
            wrong = layers(path) - ALLOWED[layer] - {layer, "typing", "files"}
            known = {other for other, _ in modules()}
            assert not wrong & known, f"{path} imports {sorted(wrong & known)}"


def edges() -> dict[str, set[str]]:
    """The files of the package that each of its files imports, as dotted names."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for _, path in modules()
    }
    return {name: {other for other in imported(path) if other in files} - {name} for name, path in files.items()}


def test_no_import_leads_back():
    """A package's own `__init__` aside: it gathers what lies in it."""
    graph = edges()
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle: {' -> '.join((*above[above.index(name) :], name))}"
        if name not in done:
            for other in graph[name]:
                if not name.startswith(f"{other}."):
                    walk(other, (*above, name))
            done.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize("system", sorted(path.name for path in (PACKAGE / "systems").iterdir() if path.is_dir()))
def test_a_system_keeps_its_task_to_itself(system):
    """Its loss is mathematics and networks alone; no other system imports its task."""
    if system.startswith("__"):
        return
    folder = PACKAGE / "systems" / system
    found = {"loss.py", "task.py", "run.py", "system.py"} & {path.name for path in folder.glob("*.py")}
    if system not in SYSTEMS and not found:  # published weights alone, which nothing here trains
        return
    assert len(found) == 4
    assert layers(folder / "loss.py") & ALLOWED.keys() <= MATHEMATICS | {"typing"}
    for _, path in modules():
        if path.parent != folder:
            assert f"diffusion_jax.systems.{system}.task" not in imported(path), path


def test_only_systems_compare_the_name_of_one():
    """`training`, `runs`, `build` and `cli` ask the table: what a system is and may, it says itself."""
    names = set(SYSTEMS)
    for layer, path in modules():
        if layer in ("systems", "convert"):  # to converters it is the name of a family of published weights
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            compared = isinstance(node, ast.Compare | ast.match_case) and {
                part.value for part in ast.walk(node) if isinstance(part, ast.Constant)
            }
            # "clip" is also a limit of x0, which a group of guidance may hold.
            assert not (compared or set()) & names or "group" in ast.unparse(node), f"{path}: {ast.unparse(node)}"


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


def test_no_two_files_of_tests_have_one_name():
    """Without packages among the tests pytest takes the second for the first, and runs neither."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert not {name for name in names if names.count(name) > 1}
