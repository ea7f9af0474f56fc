"""Transfer that another run has measured of exactly this checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl.errors import CheckpointError, StorageError
from jaxtl.measure.network import digest
from jaxtl.measure.source_record import named
from jaxtl.runner import provenance
from jaxtl.runner.rows import read_rows
from jaxtl.types import Row


def finished_rows(run: Path, start: str, targets: Collection[str]) -> Iterator[Row]:
  """Yields the transfer rows of a checkpoint in a run of the transfer or the pre-training study.

  A cell is of the checkpoint if the weights that it transferred have the same digest: those of its `start`,
  or those that it trained itself.

  Args:
    run: folder of the run.
    start: the checkpoint.
    targets: names of the targets.

  Raises:
    InputError: the run's rows are damaged.
  """
  own = digest(start)
  config = provenance.read_json(run / "config.json")
  for arm in config["arms"]:
    merged = config_lib.merge(config["base"], config["arms"][arm])
    for seed in config.get("seeds") or (0,):
      file = run / arm / str(seed) / "rows.jsonl"
      if not file.exists() or _digest_of(merged, file.parent) != own:
        continue
      for row in read_rows(file):
        if row.get("kind") == "transfer" and row.get("target") in targets:
          yield {
            key: value for key, value in row.items() if key not in ("arm", "seed", "session", "digest")
          } | {"measured_in": f"{named(run)}/{arm}/{seed}"}


def _digest_of(config: Mapping[str, Any], folder: Path) -> str | None:
  """Returns the digest of the weights that a cell transferred; None if they are gone."""
  # A pre-training transfers what it has trained, even if it started from a checkpoint.
  path = str(folder) if "model" in config else str(config.get("start"))
  try:
    return digest(path)
  except (CheckpointError, StorageError, OSError):
    return None
