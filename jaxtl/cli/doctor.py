"""`jaxtl doctor`: reports what a run would find on this machine and why.

The report covers versions, processes, devices and free disk space. It also checks that the devices work
together.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import config as config_lib
from jaxtl.errors import printable
from jaxtl.host import cluster, processes
from jaxtl.host.files import existing, size_text
from jaxtl.runner import config_file, provenance, workdir
from jaxtl.train import sharding
from jaxtl.train.runtime import Runtime

# Variables that decide what JAX finds. The rest of the environment may hold secrets, so it is not shown.
SHOWN = (
  *("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST"),
  *("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID", "MEGASCALE_COORDINATOR_ADDRESS", "JOB_COMPLETION_INDEX"),
  *(name for names in cluster.LAUNCHERS.values() for name in names),
  *("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "XLA_FLAGS", "XLA_PYTHON_CLIENT_MEM_FRACTION"),
)


def examine(options: argparse.Namespace, make_runtime: Callable[[], Runtime]) -> int:
  """Prints the findings of each process; process 0 also prints where the processes differ.

  Args:
    options: the options of `jaxtl doctor`.
    make_runtime: creates the devices; called after the processes have connected.

  Returns:
    0, or 1 if the sum is late, fails or is wrong, or if a process differs.
  """
  _say("processes", options.cluster.why)
  for name in SHOWN:
    if name in os.environ:
      _say("variable", f"{name}={os.environ[name]}")
  processes.start(options.cluster)
  runtime = make_runtime()
  for line in _machine():
    _say(*line)
  _say("mesh", f"{runtime.mesh.shape['data']} x {runtime.mesh.shape['model']} (data x model) devices")
  if not _add_up(runtime, options.timeout):
    sys.stdout.flush()
    os._exit(1)  # the sum may still hang in its thread, and JAX would wait for its peers
  return 1 if _differing(_facts(options, runtime)) else 0


def _machine() -> Iterator[tuple[str, str]]:
  yield "host", f"{socket.gethostname()}, {platform.platform()}, {os.cpu_count()} cores"
  for name, version in provenance.versions().items():
    yield "version", f"{name} {version}"
  yield "code", provenance.code_digest()[:16]
  yield "process", f"{jax.process_index()} of {jax.process_count()}"
  mine, every = jax.local_devices(), jax.devices()
  yield (
    "devices",
    f"{len(mine)} x {mine[0].device_kind} here, {len(every)} in all, backend {jax.default_backend()}",
  )
  for what, place in (
    ("work", Path.cwd()),
    ("cache", Path(jax.config.values["jax_compilation_cache_dir"] or Path.home())),
  ):
    there = existing(place)
    room = size_text(shutil.disk_usage(there).free)
    writable = "" if os.access(there, os.W_OK) else ", NOT WRITABLE"
    yield "room", f"{room} free in {there} ({what}{writable})"


def _add_up(runtime: Runtime, timeout: float) -> bool:
  """Checks that a sum of one number per device, computed over all devices, is right and in time."""
  found: list[float | Exception] = []

  def add_up() -> None:
    try:
      found.append(_sum_of_ones(runtime))
    except Exception as error:  # the failure is a finding to report, not an error of this thread
      found.append(error)

  began = time.monotonic()
  thread = threading.Thread(target=add_up, name="all-reduce", daemon=True)
  thread.start()
  thread.join(timeout)
  took = time.monotonic() - began
  if thread.is_alive():
    _say("all-reduce", f"NO ANSWER in {timeout:g} s: a process is missing, stuck, or behind a firewall")
    return False
  (answer,) = found
  if isinstance(answer, Exception):
    said = str(answer).strip().partition("\n")[0]
    _say("all-reduce", f"FAILED in {took:.2f} s: {type(answer).__name__}: {said}")
    return False
  good = answer == runtime.mesh.size
  _say(
    "all-reduce", f"{'right' if good else f'WRONG, {answer:g}'}: {runtime.mesh.size} devices in {took:.2f} s"
  )
  return good


def _sum_of_ones(runtime: Runtime) -> float:
  ones = jax.make_array_from_callback(
    (runtime.mesh.size,),
    jax.sharding.NamedSharding(runtime.mesh, jax.sharding.PartitionSpec(("data", "model"))),
    lambda index: np.ones(runtime.mesh.size, np.float32)[index],
  )
  return float(jax.jit(jnp.sum, out_shardings=sharding.replicated(runtime.mesh))(ones))


def _facts(options: argparse.Namespace, runtime: Runtime) -> dict[str, Any]:
  """Returns the facts that must be equal on all processes."""
  facts: dict[str, Any] = {"versions": provenance.versions(), "code": provenance.code_digest()}
  facts["devices"] = [len(jax.local_devices()), jax.local_devices()[0].device_kind]
  if options.config is not None:
    config = config_file.load_config(options.config)
    _, arms = config_file.parse_config(config)
    data = workdir.fingerprints(arms.values(), runtime)
    for found in data.values():
      _say("data", f"{found['name']}: {found['num_examples']} examples, fingerprint {found['fingerprint']}")
    facts |= {"config": config, "data": data}
  return facts


def _differing(facts: Mapping[str, Any]) -> bool:
  """Prints every process that differs from process 0, and returns whether there is one."""
  found = processes.gather_facts(facts)
  differ = list(processes.differing(found))
  for who, by_fact in differ:
    lines = [line for lines in by_fact.values() for line in lines]
    _say("differs", f"{who}: {config_lib.first_few(lines, most=5)}")
  if len(found) > 1 and not differ:
    _say("agreement", f"all {len(found)} processes have the same {', '.join(facts)}")
  return bool(differ)


def _say(what: str, text: str) -> None:
  print(f"{what:10} {printable(text)}", flush=True)
