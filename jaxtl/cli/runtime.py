"""The devices, the compilation cache and the progress line that the options ask for."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import jax

from jaxtl import train
from jaxtl.host.progress import Progress
from jaxtl.train.runtime import Runtime


def make_runtime(options: argparse.Namespace) -> Runtime:
  """Returns the runtime with the devices and the status line that the options ask for."""
  if options.cpu_devices:
    jax.config.update("jax_num_cpu_devices", options.cpu_devices)
  keep_compiled()
  return Runtime(
    train.make_mesh(options.num_devices, model=options.model_devices),
    data_dir=getattr(options, "data_dir", None),
    progress=Progress(),
    trust=getattr(options, "trust", False),
  )


def keep_compiled() -> None:
  """Keeps compiled programs on the disk, where the next process finds them."""
  cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxtl" / "xla"
  jax.config.update("jax_compilation_cache_dir", str(cache))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
