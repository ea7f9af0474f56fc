"""The origin of results: code, versions, machine and sessions, recorded in files of a working folder."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxtl import config as config_lib
from jaxtl.errors import InputError
from jaxtl.host import sealed_json
from jaxtl.host.files import write_atomically

PACKAGES = ("jaxtl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-cpu")

# The keys of a session that must be equal for bit-for-bit equality with another session.
MATTER = ("python", "versions", "code", "devices", "processes")


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the packages that the numbers depend on."""
  found = {"python": platform.python_version()}
  for name in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


@functools.cache
def code_digest() -> str:
  """Computes the SHA-256 of the library's own source files."""
  root = Path(__file__).resolve().parents[1]
  digest = hashlib.sha256()
  for path in sorted(root.rglob("*.py")):
    digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
  return digest.hexdigest()


def environment(command: Sequence[str], asked: Mapping[str, Sequence[Any]] | None = None) -> dict[str, Any]:
  """Returns what a number in the report depends on in addition to the config.

  Args:
    command: the command line.
    asked: the "arms" and "seeds" that the session is to finish; None means all.
  """
  devices = jax.devices()
  return {
    "command": list(command),
    **({} if asked is None else {"asked": {name: list(found) for name, found in asked.items()}}),
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "python": platform.python_version(),
    "code": code_digest(),
    "platform": platform.platform(),
    "processor": platform.machine(),
    "versions": {name: version for name, version in versions().items() if name != "python"},
    "devices": [f"{len(devices)} x {devices[0].device_kind}"],
    "processes": jax.process_count(),
  }


def add_session(path: Path, session: Mapping[str, Any]) -> list[str]:
  """Adds a session to `env.json`, and returns its differences from the first session.

  The file holds the environment of the first session. Its `later` lists what differs in each later session.
  The `session` of a row is the one that finished its cell: 0 for the first, n for the n-th of `later`.

  Returns:
    One line per difference from the first session in what may change numbers (`MATTER`).
  """
  first = read_sessions(path) if path.exists() else None
  matter: list[str] = []
  if first is None:
    first = dict(session)
  else:
    changed = {key: value for key, value in session.items() if first.get(key) != value}
    for key in MATTER:
      matter += config_lib.differences(first.get(key), session.get(key), at=key)
    first["later"] = [*first["later"], changed]
  write_atomically(path, sealed_json.text(first))
  return matter


def read_json(path: Path) -> dict[str, Any]:
  """Reads the JSON object in a file of a working folder.

  Raises:
    InputError: the file is missing or damaged.
  """
  if not path.is_file():
    raise InputError(f"there is no {path}; give the --workdir of a run")
  try:
    return sealed_json.read(path)
  except ValueError as error:
    raise InputError(f"{path} is damaged ({error}); restore it, or give another --workdir") from error


def read_sessions(path: Path) -> dict[str, Any]:
  """Reads the first session in `env.json`, with a list of `later` ones.

  Raises:
    InputError: the file is missing or damaged.
  """
  found = read_json(path)
  later = found.setdefault("later", [])
  if not isinstance(later, list) or not all(isinstance(one, dict) for one in later):
    raise InputError(
      f"{path} is damaged ('later' is not a list of objects); restore it, or give another --workdir"
    )
  return found
