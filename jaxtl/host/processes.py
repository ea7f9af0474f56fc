"""Runs several processes as one: starts them together, checks their agreement, exchanges small values."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxtl import config as config_lib
from jaxtl.errors import ConfigError, DataError, InputError, Restart, RunError, exit_code
from jaxtl.host.cluster import Cluster

T = TypeVar("T")

# A peer that is silent for this long is lost. JAX's own default of 100 s exceeds a grace period.
HEARTBEAT = 10
# How long to wait for the coordinator, and after that for all processes, in seconds.
REACH, GATHER = 25.0, 300.0
# How long the other processes wait at their end for process 0, which may be writing a report.
SHUTDOWN = 24 * 3600


def start(
  cluster: Cluster, *, reach: float = REACH, gather: float = GATHER, heartbeat: int = HEARTBEAT
) -> None:
  """Joins the other processes of a run; must be called before JAX computes anything.

  Args:
    cluster: the result of `jaxtl.host.cluster.detect`; a process that stands alone needs nothing.
    reach: seconds to wait for a coordinator that does not answer.
    gather: seconds within which all processes must have joined.
    heartbeat: seconds of silence after which a peer counts as lost.

  Raises:
    Restart: the coordinator's port is taken, or nothing listens there; names host and port.
  """
  if cluster.alone:
    return
  if cluster.coordinator is not None:
    _check_coordinator(cluster.coordinator, first=cluster.process_id == 0, patience=reach)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(
    cluster.coordinator,
    cluster.num_processes,
    cluster.process_id,
    initialization_timeout=math.ceil(gather),
    heartbeat_timeout_seconds=heartbeat,
    shutdown_timeout_seconds=SHUTDOWN,
  )


def _check_coordinator(address: str, *, first: bool, patience: float) -> None:
  """Checks the coordinator first, because JAX ends the process without naming host or port if this fails."""
  host, _, port = address.rpartition(":")
  host = host.strip("[]")  # brackets of an IPv6 address; sockets expect it without them, and JAX with them
  if first:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        probe.bind(("", int(port)))
      except OSError as error:
        why = f"port {port} of the coordinator {address} cannot be opened: {error.strerror}"
        raise Restart(why) from error
    return
  end = time.monotonic() + patience
  while True:
    try:
      socket.create_connection((host, int(port)), timeout=2).close()
      return
    except OSError as error:
      if time.monotonic() > end:
        raise Restart(f"the coordinator {address} does not answer within {patience:g} s: {error}") from error
    time.sleep(0.2)


def gather_texts(text: str) -> list[str]:
  """Gathers one text per process, in process order, on every process."""
  if jax.process_count() == 1:
    return [text]
  data = np.frombuffer(text.encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array([len(data)], np.int32)).reshape(-1)
  padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
  padded[: len(data)] = data
  rows = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
  return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def from_first(value: Callable[[], Any]) -> Any:
  """Broadcasts the value that process 0 computes, as JSON data; only the disk of process 0 counts.

  Raises:
    RunError: process 0 failed; carries its exit code. Process 0 itself raises the original error.
  """
  if jax.process_count() == 1:
    return value()
  found: Any = None
  problem: Exception | None = None
  if jax.process_index() == 0:
    try:
      found = value()
    except Exception as error:  # the other processes wait for an answer, and receive this one
      problem = error
  said = [str(problem), exit_code(problem)] if problem else None
  found, said = json.loads(gather_texts(json.dumps([found, said]))[0])
  if problem is not None:
    raise problem
  if said is not None:
    failure = RunError(f"process 0: {said[0]}")
    failure.code = said[1]
    raise failure
  return found


def whole(x: Any) -> np.ndarray:
  """Returns a global array as numpy on every process, wherever its shards are."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
    return multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x)


def check_agreement(facts: Mapping[str, Any]) -> None:
  """Refuses to start if a process has different facts from process 0.

  Args:
    facts: name -> JSON data: config, code, versions, data.

  Raises:
    DataError: the data differ.
    ConfigError: anything else differs; the line names the host, the place and both values.
  """
  if problem := disagreement(gather_facts(facts)):
    raise problem


def gather_facts(facts: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  """Gathers (host, facts) of each process, in process order, on every process."""
  mine = json.dumps([socket.gethostname(), dict(facts)], sort_keys=True)
  return [(host, found) for host, found in map(json.loads, gather_texts(mine))]


def disagreement(found: list[tuple[str, dict[str, Any]]]) -> InputError | None:
  """Returns the error for the first fact in which a process differs from process 0, or None.

  Args:
    found: (host, facts) of each process.
  """
  for who, by_fact in differing(found):
    name, lines = next(iter(by_fact.items()))
    kind = DataError if name == "data" else ConfigError
    return kind(f"{who} differs from process 0 in {config_lib.first_few(lines)}; give every process the same")
  return None


def differing(found: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, list[str]]]]:
  """Yields each process that differs from process 0: its name, and the differing lines by fact.

  Args:
    found: (host, facts) of each process.
  """
  _, expected = found[0]
  for number, (host, facts) in enumerate(found):
    by_fact = {}
    for name in sorted({*facts, *expected}):
      if lines := config_lib.differences(expected.get(name), facts.get(name), at=name):
        by_fact[name] = lines
    if by_fact:
      yield f"process {number} on {host}", by_fact


def is_first_process() -> bool:
  """Returns whether this process is the one that writes."""
  return jax.process_index() == 0
