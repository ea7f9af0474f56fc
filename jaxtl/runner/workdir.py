"""The working folder of a run, and the config and data that it belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl.errors import InputError, cannot_write
from jaxtl.host import sealed_json
from jaxtl.host.files import write_atomically
from jaxtl.host.processes import is_first_process
from jaxtl.runner import provenance
from jaxtl.train.inputs import all_data
from jaxtl.train.runtime import Runtime


def claim(
  workdir: Path,
  config: Mapping[str, Any],
  command: Sequence[str],
  *,
  asked: Mapping[str, Sequence[Any]] | None = None,
  data: Mapping[str, Any] | None = None,
) -> list[str]:
  """Claims a working folder for a config and its data; refuses the folder of others, with the difference.

  Args:
    asked: the "arms" and "seeds" of this session; None means all.
    data: from `fingerprints`; None if nothing is left to run; such a session leaves no trace.

  Returns:
    One line per difference from the folder's first session in what may change numbers: code, versions,
    devices.

  Raises:
    InputError: the folder cannot be written, is damaged, or was made with another config or other data.
    StorageError: the disk is full or fails.
  """
  path = workdir / "config.json"
  if path.exists():
    found = config_lib.differences(provenance.read_json(path), dict(config))
    if found:
      raise InputError(
        f"{workdir} was made with another config: {config_lib.first_few(found)}. "
        "Go back to that config, or give another --workdir"
      )
  known = _known_data(workdir / "data.json")
  _same_data(known, data or {}, workdir)
  if not is_first_process() or (path.exists() and data is None):
    return []
  try:
    changed = provenance.add_session(workdir / "env.json", provenance.environment(command, asked))
    write_atomically(workdir / "data.json", sealed_json.text({**known, **(data or {})}))
    if not path.exists():
      write_atomically(path, sealed_json.text(config))
  except OSError as error:
    raise cannot_write(workdir, error, instead="give another --workdir") from error
  return changed


def fingerprints(studies: Iterable[Any], runtime: Runtime) -> dict[str, Any]:
  """Returns what every source of the studies holds.

  The result maps each spec to its name, the number of examples, the fingerprint of all of them, and the
  version of the order in which they are drawn.
  """
  sources = {
    json.dumps(config_lib.plain(data.source), sort_keys=True): data
    for study in studies
    for _, data in all_data(study)
  }
  opened = {name: runtime.open(data) for name, data in sources.items()}
  return {
    name: {
      "name": source.name,
      "num_examples": len(source),
      "fingerprint": source.fingerprint(),
      "order": data_lib.ORDER_VERSION,
    }
    for name, source in runtime.moving(opened.items())
  }


def _known_data(path: Path) -> dict[str, Any]:
  """Reads what the sources held in earlier sessions; returns an empty dict if there were none."""
  known = provenance.read_json(path) if path.exists() else {}
  for name, found in known.items():
    if not isinstance(found, dict) or not {"name", "num_examples", "fingerprint"} <= set(found):
      raise InputError(
        f"{path} is damaged ({name[:80]!r} has no fingerprint); restore it, or give another --workdir"
      )
  return known


def _same_data(known: Mapping[str, Any], found: Mapping[str, Any], workdir: Path) -> None:
  for name, now in found.items():
    # Folders without a version have version 1.
    old = {"order": 1, **known.get(name, now)}
    if old["order"] != now["order"]:
      raise InputError(
        f"{workdir} was made with version {old['order']} of the order of the data, and this jaxtl has "
        f"version {now['order']}: its results would not be those of one run. Give another --workdir"
      )
    if old != now:
      raise InputError(
        f"{now['name']} has changed since {workdir} was made: {old['num_examples']} examples with the "
        f"fingerprint {old['fingerprint']}, and now {now['num_examples']} with {now['fingerprint']}. "
        "Restore the old data, or give another --workdir"
      )
