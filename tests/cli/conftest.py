"""One pair of small runs a session, and copies of it for tests that change them."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import smallruns as tiny


@pytest.fixture(scope="session")
def run(once):
    """A trained pair of runs that tests read and do not change."""
    return once("tiny", tiny.make)


@pytest.fixture(scope="session")
def label_run(once):
    """A small diffusion run that is told the digit."""
    return once("label_run", tiny.make_label_run)


@pytest.fixture
def own_run(run, tmp_path):
    """The same as a copy of the test's own."""
    return Path(shutil.copytree(run, tmp_path / "own"))
