"""Stages everything that Sphinx reads: `python -m docs.generate FOLDER` (`make docs` calls it)."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from pathlib import Path

from docs.generate import stage, tutorials


def main(folder: str) -> int:
  """Writes the sources of the site to a folder, which is emptied first; returns the exit code."""
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  os.environ.setdefault("MPLBACKEND", "agg")
  out = Path(folder)
  shutil.rmtree(out, ignore_errors=True)
  try:
    for path, content in stage.everything(Path(__file__).resolve().parents[2]).items():
      (out / path).parent.mkdir(parents=True, exist_ok=True)
      (out / path).write_bytes(content)
  except (ValueError, tutorials.TutorialError) as error:
    if error.__cause__ is not None:  # the traceback of a tutorial's block
      traceback.print_exception(error.__cause__)
    print(f"docs: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  if len(sys.argv) != 2:
    sys.exit("usage: python -m docs.generate FOLDER")
  sys.exit(main(sys.argv[1]))
