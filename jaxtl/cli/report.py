"""`jaxtl report`: writes the report of finished cells."""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxtl.cli.output import show
from jaxtl.errors import InputError


def report(options: argparse.Namespace) -> None:
  """Runs `jaxtl report`: writes the table and figures of a run, finished or not."""
  # A study that has only linear probes writes rows and no training metrics.
  measured = (*options.workdir.glob("*/*/metrics.jsonl"), *options.workdir.glob("*/*/rows.jsonl"))
  if (options.workdir / "config.json").is_file() and not measured:
    raise InputError(f"nothing has been measured in {options.workdir} yet; run it first")
  write_report(
    options.workdir, options.out or options.workdir / "report", options.data_dir, trust=options.trust
  )


def write_report(workdir: Path, out: Path, data_dir: str | None, *, trust: bool) -> None:
  from jaxtl.report import write as report_lib

  page = report_lib.write(workdir, out, data_dir=data_dir, trust=trust)
  show(f"report: {page}")
