"""Examples in docstrings run as they stand, and a user's type checker sees the library's annotations."""

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxtl

ROOT = Path(jaxtl.__file__).parent
WITH_EXAMPLES = sorted(path for path in ROOT.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of_a_module_run(path):
  name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
  # The module's own globals, without what importing it has replaced by a function of the same name.
  found = doctest.testmod(importlib.import_module(name))
  assert found.attempted > 0
  assert found.failed == 0


def test_the_losses_and_searches_that_people_meet_first_have_examples():
  names = {str(path.relative_to(ROOT)) for path in WITH_EXAMPLES}
  assert {"losses/classification.py", "losses/smoothed_hinge.py", "weights/search.py", "config.py"} <= names


@pytest.mark.slow
def test_a_user_s_type_checker_sees_the_annotations(tmp_path):
  """As from an installed package, which an editable installation hides from mypy; its marker is shipped."""
  assert (ROOT / "py.typed").is_file()
  assert '"jaxtl" = ["py.typed"]' in (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
  snippet = tmp_path / "user.py"
  snippet.write_text(
    "from jaxtl import losses, weights\n"
    "import jax.numpy as jnp\n"
    "reveal_type(weights.optimize_alpha(lambda alpha: alpha**2).alpha)\n"
    'losses.multiclass_smoothed_hinge(jnp.zeros((1, 2)), jnp.zeros(1, int), margin="wide")\n'
  )
  options = ["--ignore-missing-imports", "--follow-imports=silent", "--cache-dir", str(tmp_path)]
  found = subprocess.run(
    [sys.executable, "-m", "mypy", *options, str(snippet)],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env=os.environ | {"MYPYPATH": str(ROOT.parent)},
  ).stdout
  assert 'Revealed type is "builtins.float"' in found or 'Revealed type is "float"' in found, found
  assert 'has incompatible type "str"; expected "float"' in found, found
