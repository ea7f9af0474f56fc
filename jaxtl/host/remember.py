"""Caches computed values in files that later sessions read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtl.errors import InputError
from jaxtl.host import sealed_json
from jaxtl.host.files import put_aside, write_atomically
from jaxtl.host.processes import T, from_first, is_first_process
from jaxtl.host.progress import tell


def remember(
  path: Path,
  compute: Callable[[], T],
  *,
  recalled: Callable[[], None] | None = None,
  note: Callable[[str], None] = tell,
  replace: bool = True,
) -> T:
  """Returns the JSON result at `path`; computes and writes it if it is missing.

  This is how an interrupted study resumes: every finished measurement is a file. Process 0 alone decides
  whether the file exists and what it says. All processes compute a missing result.

  Args:
    path: the file of the result.
    compute: makes a JSON object.
    recalled: called if the result already existed.
    note: receives a line about a file that is damaged or has no digest.
    replace: renames a damaged file and computes its result again. Otherwise a damaged file is refused,
      because what it recorded cannot be measured again.

  Raises:
    InputError: the file is damaged, without `replace`.
  """
  known = from_first(lambda: _recall(path, note, replace=replace))
  if known:
    if recalled is not None:
      recalled()
    return known[0]
  result = json.loads(json.dumps(compute()))
  if is_first_process():
    write_atomically(path, sealed_json.text(result))
  return result


def _recall(path: Path, note: Callable[[str], None], *, replace: bool) -> list[Any]:
  """Returns the result in a list, which is empty if there is no result."""
  if not path.exists():
    return []
  try:
    found = sealed_json.read(path)
  except ValueError as error:
    if not replace:
      raise InputError(f"{path} is damaged ({error}); restore it, or give another --workdir") from error
    note(f"{path} is damaged ({error}). Renamed to {put_aside(path).name}, and measured again")
    return []
  if sealed_json.lacks_digest(path):
    note(f"{path} has no digest, because an older version wrote it; it is used unverified")
  return [found]
