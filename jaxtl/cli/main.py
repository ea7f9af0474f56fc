"""The command line: parses one command and its overrides, runs it, and returns its exit code.

Only the standard library is imported until the command is known, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jaxtl import imports
from jaxtl.cli import parser as parsers
from jaxtl.cli.options import default_workdir
from jaxtl.errors import InputError, RunError, exit_code, printable
from jaxtl.host import cluster, streams, supervision

DESCRIPTION = """\
What makes a pre-trained weight good for transfer, and how do you make it better?

A config is a Python file with get_config(). Any of its values can be replaced on the command line:
--config.arms.sam.gradient.rho=0.1, or arms.sam.gradient.rho=0.1."""


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one command and returns the exit code.

  The codes are 0 done, 1 a comparison found a difference, 2 bad input, 3 bad data, 4 non-finite loss, 5
  storage, 42 start it again, 130 interrupted by hand. A launch ends with the exit code of the command that it
  started.
  """
  arguments = list(sys.argv[1:] if arguments is None else arguments)
  parser = _parser()
  rest, overrides = _take_overrides(arguments, flags=_flags(parser))
  options, unknown = parser.parse_known_args(rest)
  if overrides and not hasattr(options, "overrides"):
    unknown += overrides
  if unknown:
    options.parser.error(f"{' '.join(unknown)!r} is not an argument of {options.parser.prog}")
  options.overrides = [*overrides, *getattr(options, "overrides", [])]
  options.command_line = ["jaxtl", *arguments]
  if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be UTF-8; stderr escapes by default
  with streams.forgiving(output=options.command in ("run.run", "finetune.finetune")):
    return _do(options, arguments)


def _do(options: argparse.Namespace, arguments: Sequence[str]) -> int:
  """Runs the command and returns its exit code; an error is printed as one line."""
  try:
    if (watched := _watched(options, arguments)) is not None:
      return watched
    module, _, function = options.command.partition(".")
    # The commands import JAX and TensorFlow; nothing above does.
    if "jax" not in sys.modules:  # else a program calls this function, and continues after it
      imports.freeze_in_this_process()
    with imports.without_collection():
      command = getattr(importlib.import_module(f"jaxtl.cli.{module}"), function)
    code = command(options) or 0
    sys.stdout.flush()
    return code
  except (InputError, RunError) as error:
    _complain(str(error))
    return error.code
  except OSError as error:
    _complain(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}")
    return exit_code(error)
  except KeyboardInterrupt as error:
    _complain("interrupted; the same command resumes from the last checkpoint")
    return exit_code(error)


def _complain(message: str) -> None:
  print(f"jaxtl: {printable(message)}", file=sys.stderr)


def _watched(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
  """Runs the command in a supervised child process if it is one of several processes.

  Returns:
    The exit code of the child, or None if this process needs no supervision.

  Raises:
    ConfigError: the options about processes are inconsistent.
  """
  if not hasattr(options, "coordinator"):
    return None
  options.cluster = cluster.detect(
    os.environ,
    coordinator=options.coordinator,
    num_processes=options.num_processes,
    process_id=options.process_id,
  )
  if options.cluster.alone or supervision.is_child() or options.command != "run.run":
    return None
  folder = options.workdir or default_workdir(options.config)
  return supervision.run(
    arguments,
    folder=folder,
    process=options.cluster.number,
    num_processes=options.cluster.num_processes,
  )


class _Parser(argparse.ArgumentParser):
  """Reports an error in one line, without the usage text, which can be longer than a screen."""

  def error(self, message: str) -> NoReturn:
    line = printable(" ".join(message.removeprefix("argument ").split()))
    self.exit(InputError.code, f"jaxtl: {line}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog="jaxtl", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
  commands = parser.add_subparsers(required=True, metavar="COMMAND")
  for add in parsers.COMMANDS:
    add(commands)
  return parser


class _Version(argparse.Action):
  """Prints the version; an action, so that the package is imported only on request."""

  def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
    from jaxtl import __version__

    print(__version__)
    parser.exit()


def _flags(parser: argparse.ArgumentParser) -> set[str]:
  """Returns the options of all commands that take no value."""
  found: set[str] = set()
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      found.update(*map(_flags, action.choices.values()))
    elif action.nargs == 0:
      found.update(action.option_strings)
  return found


def _take_overrides(arguments: Sequence[str], *, flags: set[str]) -> tuple[list[str], list[str]]:
  """Separates KEY=VALUE overrides from the arguments that argparse reads.

  An override may stand anywhere, with or without `--config.`.
  """
  rest: list[str] = []
  overrides = []
  for argument in arguments:
    after_option = bool(rest) and rest[-1].startswith("--") and "=" not in rest[-1] and rest[-1] not in flags
    if argument.startswith("--config."):
      overrides.append(argument.removeprefix("--config."))
    elif re.match(r"[A-Za-z_][\w-]*(\.[\w-]+)*=", argument) and not after_option:
      overrides.append(argument)
    else:
      rest.append(argument)
  return rest, overrides
