"""The code of README.md and docs/*.md runs, and what is written beside it comes out."""

import ast
import importlib.util
import subprocess
import sys

import jax
import pytest
import snippets
from processes import environment

from diffusion_jax.cli import main

README, DOCS = snippets.ROOT / "README.md", snippets.ROOT / "docs"


@pytest.fixture(autouse=True)
def _as_a_reader(monkeypatch, tmp_path):
    """A folder of the test's own, and without a rule of the suite that a reader has not set."""
    monkeypatch.chdir(tmp_path)
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize(
    ("code", "right", "wrong"),
    [
        ("x = 1.98  # about {}", "2", "1.7"),
        ("print(.5754, 12.01)  # about {}", ".575, 12", ".570, 12"),
        ("import numpy as np\nx = np.arange(5.0)  # mean about {}", "2, std about 1.41", "2, std about 1.5"),
        (
            "import numpy as np\nx, y = np.ones((3, 2)), np.ones(4)  # ours {}; theirs",
            "[n, 2], in [0, 2], [4]",
            "[2, 2], [4]",
        ),
        ("print('at 3.14')\n```\n```\nat {}", "3.1", "3.3"),
        ("print('at 3.14')\n```\n```\n{} 3.14", "at", "by"),
    ],
)
def test_a_wrong_number_is_found(code, right, wrong, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"```python\n{code.format(right)}\n```\n")
    assert len(snippets.run(page)) == 1
    page.write_text(f"```python\n{code.format(wrong)}\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md"):
        snippets.run(page)


def test_everything_that_is_imported_is_there(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for page in snippets.PAGES:
        for file in snippets.write_files(page, tmp_path):
            monkeypatch.setitem(sys.modules, file.stem, None)  # what is there of this name comes back
            del sys.modules[file.stem]
        for block in snippets.blocks(page, "python"):
            nodes = [node for node in ast.parse(block.text).body if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(nodes, []), str(block), "exec"), {})


def test_a_denoiser_of_ones_own():
    assert snippets.run(README, lambda block: "from_x0(" in block.text)


def test_noise_while_sampling():
    """Section 4 of the page on the spiral, and the beginning that it needs."""
    assert len(snippets.run(DOCS / "spiral.md", lambda block: "theta =" in block.text or "ways =" in block.text)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spiral", "contrastive"])
def test_pages_that_need_nothing(name):
    page = DOCS / f"{name}.md"
    assert snippets.run(page) == snippets.blocks(page, "python")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The run of `make demo`: the one in the clone, or one made for this."""
    made = snippets.ROOT / "runs" / "digits"
    if not (made / "report" / "metrics.json").is_file():
        made = tmp_path_factory.mktemp("demo") / "digits"
        command = [sys.executable, str(snippets.ROOT / "experiments" / "digits"), "--out", str(made)]
        # On one device, as a reader has it: of eight simulated ones XLA ends a process that waits too long beside others.
        subprocess.run(command, check=True, timeout=1700, env=environment(devices=1))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, DOCS / "steering.md", DOCS / "evaluation.md"], ids=lambda page: page.stem)
def test_pages_on_the_demo(page, demo, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(demo)
    assert snippets.run(page, slack=0.05) == snippets.blocks(page, "python")


@pytest.mark.slow
def test_unclip_on_the_demo(demo, tmp_path):
    """What the page asks the demo's decoder and prior for, and the picture that one gives back to them."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(demo)
    runs = ["--decoder", "runs/digits/diffusion", "--prior", "runs/digits/prior"]
    asked = ["--prompt", "a bold seven", "--num-images", "1", "--out", "seven.png"]
    assert main(["unclip", "generate", *runs, *asked]) == 0
    assert len(snippets.run(DOCS / "unclip.md", lambda block: "load_unclip(" in block.text)) == 1


def test_tokenizers(tmp_path):
    """The page's own output, of OpenAI's vocabulary, which comes with open_clip."""
    open_clip = importlib.util.find_spec("open_clip")
    if open_clip is None:
        pytest.skip("CLIP's vocabulary is not part of this repository; the extra `parity` brings it")
    (tmp_path / "vocabularies").symlink_to(open_clip.submodule_search_locations[0])
    assert len(snippets.run(DOCS / "tokenizer.md")) == 1
