"""`jaxtl data check`: describes what a data set holds."""

from __future__ import annotations

import argparse

from jaxtl.cli.options import column_choice
from jaxtl.cli.output import show


def data_check(options: argparse.Namespace) -> None:
  """Runs `jaxtl data check`: describes what a data set holds."""
  from jaxtl import data as data_lib

  columns = column_choice(options)
  show(data_lib.check_source(options.source, data_dir=options.data_dir, out=options.out, **columns))
