"""Who may import whom: the table is both the rule and its documentation."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxtl

ROOT = Path(jaxtl.__file__).parent
REPOSITORY = ROOT.parent
BASIC = {"config", "errors", "tree", "types"}
NUMERIC = {"jax", "numpy", "optax"}

# package or module -> (what of jaxtl it may import beside itself, what of others beside the standard library)
RULES: dict[str, tuple[set[str], set[str]]] = {
  "errors": (set(), set()),
  "types": (set(), {"jax"}),
  "tree": ({"errors", "types"}, {"jax"}),
  "config": ({"errors"}, set()),
  "losses": (BASIC, NUMERIC),
  "optim": (BASIC, NUMERIC),
  "curvature": (BASIC, NUMERIC | {"scipy"}),
  "weights": (BASIC, NUMERIC | {"scipy"}),  # scipy: Brent's method
  "metrics": (BASIC, NUMERIC),
  "models": (BASIC, NUMERIC | {"flax"}),
  "data": (
    {"errors"},
    {"PIL", "matplotlib", "numpy", "pyarrow", "skimage", "sklearn", "tensorflow", "tensorflow_datasets"},
  ),
  "tasks": (BASIC | {"losses", "metrics", "models"}, NUMERIC | {"flax", "tokenizers"}),
  "train": (
    BASIC
    | {
      "cluster",
      "data",
      "exit_reason",
      "losses",
      "metrics",
      "models",
      "optim",
      "streams",
      "tasks",
      "weights",
    },
    NUMERIC | {"orbax", "rich", "tensorboardX"},
  ),
  "studies": (
    BASIC | {"curvature", "data", "losses", "metrics", "models", "optim", "tasks", "train", "weights"},
    NUMERIC | {"PIL", "matplotlib"},
  ),
  "pretrained": (
    BASIC | {"data", "models", "train", "weights"},
    # torch and what builds on it only in `original.py`, which runs in a process of its own
    NUMERIC | {"open_clip", "orbax", "safetensors", "timm", "torch", "torchvision", "transformers"},
  ),
  "doctor": (BASIC | {"cluster", "studies", "train"}, {"jax", "numpy"}),
  "commands": (
    BASIC
    | {
      "cluster",
      "data",
      "doctor",
      "exit_reason",
      "launching",
      "pretrained",
      "studies",
      "supervision",
      "train",
    },
    {"jax"},
  ),
  "arguments": (set(), set()),
  "cluster": ({"errors"}, set()),
  "exit_reason": (set(), set()),
  "launching": ({"arguments", "errors", "signals"}, set()),
  "signals": (set(), set()),
  "streams": (set(), set()),
  "supervision": ({"errors", "exit_reason", "signals", "streams"}, set()),
  "parsers": ({"arguments", "launching"}, set()),
  "cli": ({"__init__", "cluster", "commands", "errors", "parsers", "streams", "supervision"}, set()),
  "__main__": ({"cli", "streams", "supervision"}, set()),
  "__init__": (set(), set()),
}

FILES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
  """The modules that a file imports, those inside functions included."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path} has a relative import"
      found |= (
        {f"jaxtl.{alias.name}" for alias in node.names} if node.module == "jaxtl" else {node.module or ""}
      )
  return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_package_may(path):
  package = path.relative_to(ROOT).parts[0].removesuffix(".py")
  own, others = RULES[package]
  for name in imports(path):
    top, _, rest = name.partition(".")
    if top == "jaxtl":
      part = rest.split(".")[0]
      part = "__init__" if part == "__version__" else part
      assert part in own | {package}, f"{package} must not import jaxtl.{part}"
    elif top not in sys.stdlib_module_names:
      assert top in others, f"{package} must not import {top}"


def test_torch_is_imported_by_one_script_alone():
  for path in FILES:
    found = {name.partition(".")[0] for name in imports(path)}
    if found & {"torch", "torchvision", "timm", "transformers", "open_clip"}:
      assert path.name == "original.py", path


def test_no_module_imports_a_script():
  for path in FILES:
    for script in ("original", "torch_reader"):
      assert f"jaxtl.pretrained.{script}" not in imports(path), path


def test_no_module_has_a_name_that_says_nothing():
  names = {path.stem for path in FILES}
  assert not names & {"utils", "common", "misc", "helper", "helpers", "base", "manager"}


def run_python(code: str) -> str:
  return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_jaxtl_loads_neither_tensorflow_nor_flax():
  heavy = "{'tensorflow', 'flax', 'jax', 'orbax', 'matplotlib'}"
  assert run_python(f"import jaxtl, sys; print({heavy} & set(sys.modules))").strip() == "set()"


def test_the_command_lines_help_loads_nothing_heavy():
  code = (
    "import sys, jaxtl.cli\ntry: jaxtl.cli.main(['--help'])\nexcept SystemExit: pass\n"
    "print('heavy:', {'tensorflow', 'flax', 'jax', 'numpy'} & set(sys.modules))"
  )
  assert "heavy: set()" in run_python(code)


def test_training_code_does_not_import_what_only_some_sources_need():
  code = "import jaxtl.train, sys; print({'tensorflow_datasets', 'skimage', 'pyarrow'} & set(sys.modules))"
  assert run_python(code).strip() == "set()"


def test_every_public_name_exists():
  for name in jaxtl.__all__:
    module = getattr(jaxtl, name)
    for public in getattr(module, "__all__", ()):
      assert hasattr(module, public), f"jaxtl.{name} exports {public!r}, which it does not have"


def test_no_duration_is_taken_from_a_clock_that_can_be_set():
  """A clock that jumps must not turn a rate negative: wall time is for records alone."""
  found = {
    str(path.relative_to(ROOT))
    for path in FILES
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "datetime.datetime.now")
  }
  assert found <= {"exit_reason.py", "studies/provenance.py", "train/writer.py"}
