"""Eight virtual devices, no implicit rank promotion, a compilation cache that survives the run."""

import gc
import os
import signal
from pathlib import Path

# XLA reads its flags when it is loaded. Compilation takes most of the suite's time, since its programs are
# many and small, and each runs a few times. Without LLVM's optimisations and XLA's fusion emitters it is 12
# times faster (2.6 s to 0.22 s for the gradient of a ResNet-8). XLA's own passes stay on.
FAST_COMPILATION = (
  "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
  "--xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = f"{FAST_COMPILATION} {os.environ.get('XLA_FLAGS', '')}".strip()

import jax  # noqa: E402
import pytest  # noqa: E402

from tests.small_study import (  # noqa: E402, F401
  checkpointed,
  finished,
  patched_once,
  settings,
  study_config,
  trained_once,
)
from tests.small_training import runtime, small_disk, tiny  # noqa: E402, F401

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
_cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxtl" / "tests"
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  # A shell ignores it in what it starts in the background; programs that the tests start and interrupt would
  # inherit that, and a shell script could not even trap it.
  signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


# Files that take minutes. With `--dist loadfile` a file is one piece of work: begun last, it would leave the
# other cores idle at the end. Those that wait for other processes have such that compute beside them.
LONGEST = (
  "train/test_processes.py",
  "models/test_every_model.py",
  "pretrained/test_catalogue.py",
  "launching/test_slurm.py",
  "studies/patching/test_study.py",
  "pretrained/test_onnx.py",
  "train/test_killed.py",
  "data/test_pipeline.py",
  "models/test_retinanet.py",
  "cli/test_cli.py",
  "runner/test_processes.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Puts the longest files first; the others keep their order."""
  place = {path: number for number, path in enumerate(LONGEST)}
  tests = Path(__file__).parent
  items.sort(key=lambda item: place.get(item.path.relative_to(tests).as_posix(), len(LONGEST)))


def pytest_collection_finish() -> None:
  """Excludes imported modules from garbage collection, which would visit a million objects each time."""
  gc.collect()
  gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
  """Forgets a module's compiled programs: XLA:CPU maps memory for each, and Linux lets a process have 65,530
  maps, beyond which the next program to be loaded is a segmentation fault."""
  yield
  jax.clear_caches()


@pytest.fixture
def shared_data() -> Path:
  """The folder of small real data sets beside the repository; the test skips where it is absent."""
  if not SHARED_DATA.is_dir():
    pytest.skip("needs the small real data sets in ../shared/data, which are not here")
  return SHARED_DATA


def pytest_addoption(parser: pytest.Parser) -> None:
  parser.addoption("--update-golden", action="store_true", help="write tests/golden anew")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
  """Whether golden files are written instead of compared."""
  return request.config.getoption("--update-golden")
