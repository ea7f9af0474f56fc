"""Who may import whom: the table is both the rule and its documentation."""

import ast
import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxtl

ROOT = Path(jaxtl.__file__).parent
REPOSITORY = ROOT.parent
NUMERIC = {"jax", "numpy", "optax"}
BASIC = {"boxes", "config", "errors", "text_table", "tree", "types"}
CORE = BASIC | {
  "checkpoints",
  "data",
  "host",
  "losses",
  "metrics",
  "models",
  "optim",
  "tasks",
  "train",
  "weights",
}
MEASURING = CORE | {"curvature", "measure", "zero_shot"}

# The first pattern that matches a file says what it may import: of jaxtl outside its own package, and of
# other libraries beside the standard one. A study is a package of its own: `studies.transfer`.
RULES: dict[str, tuple[set[str], set[str]]] = {
  "errors.py": (set(), set()),
  "imports.py": (set(), set()),
  "text_table.py": (set(), set()),
  "types.py": (set(), {"jax"}),
  "boxes.py": ({"errors", "types"}, {"jax"}),
  "tree.py": ({"errors", "types"}, {"jax"}),
  "config.py": ({"errors"}, set()),
  "losses/*": (BASIC, NUMERIC),
  "optim/*": (BASIC, NUMERIC),
  "curvature/*": (BASIC, NUMERIC | {"scipy"}),
  "weights/*": (BASIC, NUMERIC | {"scipy"}),  # scipy: Brent's method
  "metrics/*": (BASIC, NUMERIC | {"scipy"}),  # scipy: eigenproblems and sparse sums of scores
  "models/*": (BASIC, NUMERIC | {"flax"}),
  "data/*": (
    {"errors", "imports"},
    {"PIL", "matplotlib", "numpy", "pyarrow", "skimage", "sklearn", "tensorflow", "tensorflow_datasets"},
  ),
  "tasks/*": (BASIC | {"losses", "metrics", "models"}, NUMERIC),
  # What it checks, and what checks it
  "testing/*": (
    BASIC | {"data", "losses", "metrics", "models", "optim"},
    NUMERIC | {"chex", "flax", "hypothesis"},
  ),
  # Before a command is known, and in the processes that watch others: no JAX.
  "host/cluster.py": ({"errors"}, set()),
  "host/exit_reason.py": (set(), set()),
  "host/signals.py": (set(), set()),
  "host/streams.py": (set(), set()),
  "host/supervision.py": ({"errors"}, set()),
  "host/*": (BASIC, {"google", "jax", "numpy", "rich", "tensorboardX"}),  # google: protobuf, of tensorboardX
  "launching/*": ({"errors", "host"}, set()),
  "checkpoints/*": (BASIC | {"host", "optim"}, NUMERIC | {"orbax"}),
  "zero_shot/*": (BASIC | {"checkpoints", "data", "models"}, NUMERIC | {"tokenizers"}),
  "train/*": (CORE, NUMERIC | {"orbax"}),
  "measure/*": (MEASURING, NUMERIC),
  # torch and what builds on it only in scripts that run in a process of their own
  "pretrained/run_original.py": (
    set(),
    {"numpy", "open_clip", "safetensors", "timm", "torch", "torchvision", "transformers"},
  ),
  "pretrained/torch_reader.py": (set(), {"numpy", "safetensors"}),
  "pretrained/onnx_graph.py": (
    BASIC | {"checkpoints", "data", "models"},
    NUMERIC | {"onnx"},
  ),
  "pretrained/*": (
    BASIC | {"checkpoints", "data", "host", "models", "train", "weights"},
    NUMERIC | {"orbax", "safetensors"},
  ),
  "runner/*": (BASIC | {"checkpoints", "data", "host", "train"}, {"jax", "numpy"}),
  "report/*": (
    {"config", "data", "errors", "host", "metrics", "runner", "train"},
    {"PIL", "matplotlib", "numpy"},
  ),
  "inference/*": (
    BASIC | {"checkpoints", "data", "measure", "report", "train"},
    NUMERIC | {"PIL", "scipy"},  # scipy: sparse matrices that resize images
  ),
  "evaluation/*": (MEASURING | {"report"}, NUMERIC | {"PIL", "matplotlib"}),
  "selection/*": (MEASURING | {"report"}, NUMERIC),
  "studies/*/figures.py": ({"errors", "report", "studies.transfer"}, {"matplotlib", "numpy"}),
  "studies/*/*_figures.py": ({"errors", "report", "studies.transfer"}, {"matplotlib", "numpy"}),
  "studies/*/*tables.py": (
    {"config", "errors", "measure", "report", "studies.transfer", "text_table", "types"},
    {"numpy"},
  ),
  "studies/*/captions.py": ({"config", "errors", "measure", "report"}, {"numpy"}),
  "studies/*/trials.py": ({"report"}, {"numpy"}),
  "studies/*/report.py": ({"config", "errors", "measure", "report", "studies.transfer"}, {"numpy"}),
  "studies/*/results.py": ({"report"}, {"numpy"}),
  "studies/*": (MEASURING | {"runner", "studies.transfer"}, NUMERIC),
  "__init__.py": (set(), set()),
  "__main__.py": ({"cli", "host"}, set()),
  "cli/main.py": ({"__init__", "errors", "host", "imports"}, set()),
  "cli/options.py": (set(), set()),
  "cli/parser.py": ({"launching"}, set()),
  "cli/models.py": ({"errors", "host", "text_table"}, set()),  # a stored table, without JAX
  "cli/tensorboard.py": ({"errors", "host"}, set()),  # starts another program
  "cli/launch_options.py": ({"launching"}, set()),
  "cli/templates/*": (set(), {"ml_collections"}),  # configs, which `jaxtl new` copies
  "cli/*": (
    CORE
    | {"evaluation", "inference", "launching", "measure", "pretrained"}
    | {"report", "runner", "selection", "studies", "zero_shot"},
    {"jax", "numpy"},
  ),
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


def package_of(name: str) -> str:
  """The package that a dotted name below jaxtl belongs to: `train`, or `studies.transfer`."""
  parts = name.split(".")
  return ".".join(parts[:2]) if parts[0] == "studies" else parts[0]


def rule_of(path: Path) -> tuple[set[str], set[str]]:
  name = str(path.relative_to(ROOT))
  return next(rule for pattern, rule in RULES.items() if fnmatch.fnmatchcase(name, pattern))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_it_may(path):
  own, others = rule_of(path)
  package = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
  for name in imports(path):
    top, _, rest = name.partition(".")
    if top == "jaxtl":
      part = "__init__" if rest == "__version__" else package_of(rest)
      assert part == package or part in own or part.split(".")[0] in own, f"must not import jaxtl.{part}"
    elif top not in sys.stdlib_module_names:
      assert top in others, f"must not import {top}"


def test_every_rule_is_of_a_file():
  names = [str(path.relative_to(ROOT)) for path in FILES]
  for pattern in RULES:
    assert any(fnmatch.fnmatchcase(name, pattern) for name in names), pattern


def test_no_two_classes_have_one_name():
  names = [
    node.name
    for path in FILES
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef)
  ]
  assert sorted(names) == sorted(set(names))


STUDIES = sorted(path.name for path in (ROOT / "studies").iterdir() if (path / "study.py").is_file())


def test_no_file_of_the_runner_or_the_report_names_a_study():
  """Adding a study changes no library file: the runner and the report find it by its path."""
  for package in ("report", "runner"):
    for path in (ROOT / package).glob("*.py"):
      assert not any(name.startswith("jaxtl.studies") for name in imports(path)), path
      for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
          assert node.value not in STUDIES, f"{path} has the string {node.value!r}"
          assert not re.search(rf"studies\.({'|'.join(STUDIES)})", node.value), f"{path}: {node.value!r}"


def test_the_science_of_a_study_draws_nothing():
  for path in ROOT.glob("studies/*/study.py"):
    assert not any(name.startswith("jaxtl.report") for name in imports(path)), path


def test_torch_is_imported_by_one_script_alone():
  for path in FILES:
    found = {name.partition(".")[0] for name in imports(path)}
    if found & {"torch", "torchvision", "timm", "transformers", "open_clip"}:
      assert path.name == "run_original.py", path


def test_no_module_imports_a_script():
  for path in FILES:
    for script in ("run_original", "torch_reader"):
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


def test_tensorflow_leaves_keras_until_it_is_used():
  code = (
    "import sys; from jaxtl.data.lazy_tensorflow import tf; tf.data\n"
    "print({'keras', 'sklearn', 'matplotlib'} & set(sys.modules), tf.keras.optimizers.Adam.__name__)"
  )
  assert run_python(code).strip() == "set() Adam"


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
  assert found <= {"host/exit_reason.py", "host/metrics_log.py", "host/progress.py", "runner/provenance.py"}
