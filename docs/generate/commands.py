"""The reference of the command line, read from its parsers."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

from docs.generate.markdown import in_cell

INTRODUCTION = """# Commands

`jaxtl COMMAND --help` prints the same. Every command ends with one of the
[exit codes](exit_codes.md).
"""


def pages() -> dict[str, str]:
  """Returns path -> text of one page with every command.

  Raises:
    ValueError: an option has no help.
  """
  # The package exports the function `main` of this module under the module's own name.
  parser = importlib.import_module("jaxtl.cli.main")._parser()
  sections = [_section(name, each) for name, each in _commands(parser, "jaxtl")]
  return {"reference/commands.md": "\n".join([INTRODUCTION, *sections])}


def _commands(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
  """Yields the commands that take no further command, with their full names."""
  below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
  if not below:
    yield name, parser
  for action in below:
    for word, child in action.choices.items():
      yield from _commands(child, f"{name} {word}")


def _section(name: str, parser: argparse.ArgumentParser) -> str:
  actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
  if missing := [_written(action) for action in actions if not action.help]:
    raise ValueError(f"{name}: no help for {', '.join(missing)}")
  shown = [action for action in actions if action.help != argparse.SUPPRESS]
  rows = [f"| `{in_cell(_written(action))}` | {in_cell(_help(action))} |" for action in shown]
  table = "\n".join(["| argument | meaning |", "|---|---|", *rows]) if rows else ""
  return f"## {name}\n\n{_escaped(parser.description or '')}\n\n{table}\n"


def _written(action: argparse.Action) -> str:
  """Returns an argument as it is typed: `--out DIR`, or `CONFIG`."""
  choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else None
  value = action.metavar if isinstance(action.metavar, str) else choices or action.dest.upper()
  if not action.option_strings:
    return value
  return action.option_strings[-1] if action.nargs == 0 else f"{action.option_strings[-1]} {value}"


def _help(action: argparse.Action) -> str:
  text = action.help or ""
  return _escaped(text % {"default": action.default} if "%(" in text else text.replace("%%", "%"))


def _escaped(text: str) -> str:
  """Returns plain text as Markdown that shows it: names like `ARM_SEED` and `<x>` are not markup."""
  for mark in ("\\", "*", "_", "<", "[", "]", "`"):
    text = text.replace(mark, f"\\{mark}")
  return text
