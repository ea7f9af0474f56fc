"""The command line: jaxtl run | check | eval | import | export | report | data check.

Only the standard library is imported until a command is known, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtl.errors import InputError, RunError

FLAGS = ("--help", "--no-report", "--print-config", "--trust", "--verify")
# As in jaxtl.pretrained, which is not imported before it is needed.
LAYOUTS = (
  "jaxtl",
  "torchvision",
  "timm",
  "hugging_face",
  "openai",
  "open_clip",
  "big_vision",
  "augreg",
  "akamaster",
  "wide_resnet_pytorch",
  "lukemelas",
  "mlperf_tiny",
  "tflite",
)
EXPORTS = ("orbax", "safetensors", "npz", "torchvision", "timm", "hugging_face", "stablehlo")
DESCRIPTION = """\
What makes a pre-trained weight good for transfer, and how do you make it better?

A config is a Python file with get_config(). Any of its values can be replaced on the command line:
--config.arms.sam.gradient.rho=0.1, or arms.sam.gradient.rho=0.1."""


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one command; returns the exit code: 0 done, 2 bad input, 4 non-finite loss, 130 interrupted."""
  arguments = list(sys.argv[1:] if arguments is None else arguments)
  rest, overrides = _take_overrides(arguments)
  options = _parser().parse_args(rest)
  if overrides and not hasattr(options, "overrides"):
    _parser().error(f"unrecognized arguments: {' '.join(overrides)}")
  options.overrides = [*overrides, *getattr(options, "overrides", [])]
  options.command_line = ["jaxtl", *arguments]
  try:
    # The commands import JAX and TensorFlow; nothing above does.
    from jaxtl import commands

    getattr(commands, options.command)(options)
  except InputError as error:
    print(f"jaxtl: {error}", file=sys.stderr)
    return 2
  except OSError as error:
    print(f"jaxtl: {error.filename or 'a file'} cannot be used: {error.strerror or error}", file=sys.stderr)
    return 2
  except RunError as error:
    print(f"jaxtl: {error}", file=sys.stderr)
    return error.code
  except KeyboardInterrupt:
    print("jaxtl: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    return 130
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="jaxtl", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
  commands = parser.add_subparsers(required=True, metavar="COMMAND")
  _add_run(commands)
  _add_check(commands)
  _add_eval(commands)
  _add_import(commands)
  _add_export(commands)
  _add_report(commands)
  _add_data(commands)
  return parser


def _add_run(commands: Any) -> None:
  run = _command(commands, "run", "run", "run a study: every arm with every seed, then its report")
  _config_options(run)
  run.add_argument(
    "--workdir",
    type=Path,
    metavar="DIR",
    help="folder of the run; running again continues it (path; default: runs/CONFIG)",
  )
  run.add_argument(
    "--arms", type=_names, metavar="A,B", help="only these arms (names; default: all of the config's)"
  )
  run.add_argument(
    "--seeds", type=_numbers, metavar="0,1", help="only these seeds (integers; default: all of the config's)"
  )
  run.add_argument(
    "--no-report", action="store_true", help="do not write the report at the end (flag; default: write it)"
  )
  _trust_option(run)
  _device_options(run)


def _add_check(commands: Any) -> None:
  check = _command(commands, "check", "check", "check a config without running it: parameters, steps, sizes")
  _config_options(check)
  check.add_argument(
    "--print-config", action="store_true", help="print the whole config as JSON and stop (flag; default: no)"
  )
  _device_options(check)


def _add_eval(commands: Any) -> None:
  evaluate = _command(
    commands, "eval", "evaluate", "evaluate a checkpoint on a data set with the same classes"
  )
  _checkpoint_argument(evaluate)
  evaluate.add_argument(
    "--data",
    required=True,
    metavar="SOURCE",
    help="folder, parquet, sheets, npz, tfds:NAME or a built-in (text)",
  )
  evaluate.add_argument(
    "--split", metavar="NAME", help="split to use (text; default: the only one, test or val)"
  )
  evaluate.add_argument(
    "--batch-size", type=_count, default=128, metavar="N", help="images per batch (integer; default: 128)"
  )
  evaluate.add_argument(
    "--max-bad-records",
    type=int,
    default=0,
    metavar="N",
    help="unreadable images that are skipped, each named, before it stops (integer; default: 0)",
  )
  evaluate.add_argument(
    "--out", type=Path, metavar="FILE", help="also write the numbers as JSON (path; default: no file)"
  )
  _data_option(evaluate)
  _trust_option(evaluate)
  _device_options(evaluate)


def _add_import(commands: Any) -> None:
  importing = _command(
    commands,
    "import",
    "import_weights",
    "make a checkpoint, where every study can start, of somebody's weights",
  )
  importing.add_argument(
    "file", type=Path, metavar="FILE", help=".safetensors, .npz, .pth, or a folder that holds one (path)"
  )
  importing.add_argument(
    "overrides",
    nargs="*",
    metavar="KEY=VALUE",
    help="a keyword of the model, like padding=same (default: none)",
  )
  importing.add_argument(
    "--as", dest="model", required=True, metavar="MODEL", help="our model, e.g. resnet50 (text)"
  )
  importing.add_argument(
    "--layout", required=True, choices=LAYOUTS, help=f"whose names the file has: {', '.join(LAYOUTS)} (text)"
  )
  importing.add_argument(
    "--out", type=Path, metavar="DIR", help="folder that is made (path; default: runs/import/MODEL)"
  )
  importing.add_argument(
    "--classes",
    type=Path,
    metavar="FILE",
    help="JSON list of class names in the order of the outputs (path; default: ImageNet's for 1,000)",
  )
  importing.add_argument(
    "--allow",
    action="append",
    default=[],
    metavar="REGEX",
    help="paths of ours that may be missing, keys of the file that may be left over (text; default: none)",
  )
  importing.add_argument(
    "--verify",
    action="store_true",
    help="run 8 inputs through the original in its library, too (flag; default: no)",
  )
  _preprocessing_options(importing, own="the file's, or the layout's")
  _device_options(importing)


def _preprocessing_options(parser: argparse.ArgumentParser, *, own: str) -> None:
  parser.add_argument(
    "--image-size", type=_count, metavar="N", help=f"side of the images in pixels (integer; default: {own})"
  )
  parser.add_argument(
    "--crop-fraction",
    type=_fraction,
    metavar="F",
    help="image size over the shorter side before the middle is cut out; 'none' resizes without a cut "
    f"(number above 0 to 1; default: {own})",
  )
  parser.add_argument(
    "--interpolation", choices=("bilinear", "bicubic"), help=f"how images are resized (text; default: {own})"
  )
  for name in ("mean", "std"):
    parser.add_argument(
      f"--{name}",
      type=_channels,
      metavar="R,G,B",
      help=f"{name} of the channels on the scale from 0 to 1 (three numbers; default: {own})",
    )


def _add_export(commands: Any) -> None:
  export = _command(commands, "export", "export", "write a checkpoint's weights in another format")
  _checkpoint_argument(export)
  export.add_argument("out", type=Path, metavar="OUT", help="folder that is made (path; must not exist)")
  export.add_argument(
    "--format",
    choices=EXPORTS,
    default="safetensors",
    help=f"what to write: {', '.join(EXPORTS)} (text; default: safetensors)",
  )
  _trust_option(export)
  _device_options(export)


def _add_report(commands: Any) -> None:
  report = _command(
    commands, "report", "report", "make the report of a run: Markdown, CSV, LaTeX and one HTML page"
  )
  report.add_argument("workdir", type=Path, metavar="WORKDIR", help="folder of the run (path)")
  report.add_argument(
    "--out", type=Path, metavar="DIR", help="where to write (path; default: WORKDIR/report)"
  )
  _data_option(report)
  _trust_option(report)


def _add_data(commands: Any) -> None:
  data = commands.add_parser("data", help="look at a data set", description="Look at a data set.")
  data_commands = data.add_subparsers(required=True, metavar="COMMAND")
  data_check = _command(
    data_commands,
    "check",
    "data_check",
    "classes, counts, sizes, unreadable files, overlap; and two pictures",
  )
  data_check.add_argument(
    "source",
    metavar="SOURCE",
    help="folder, parquet, sheets, npz, tfds:NAME or a built-in: glyphs, digits, photo_patches (text)",
  )
  data_check.add_argument(
    "--out",
    type=Path,
    default=Path("data_check"),
    metavar="DIR",
    help="for the pictures (path; default: data_check)",
  )
  _data_option(data_check)


class _Version(argparse.Action):
  """Prints the version; as an action, so that the package is imported only when asked."""

  def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
    from jaxtl import __version__

    print(__version__)
    parser.exit()


def _command(commands: Any, name: str, function: str, description: str) -> argparse.ArgumentParser:
  parser = commands.add_parser(
    name, help=description, description=description[0].upper() + description[1:] + "."
  )
  parser.set_defaults(command=function)
  return parser


def _config_options(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("config", type=Path, metavar="CONFIG", help="a Python file with get_config() (path)")
  parser.add_argument(
    "overrides",
    nargs="*",
    metavar="KEY=VALUE",
    help="replaces a value, e.g. base.epochs=2 or --config.base.epochs=2 (literal or text; default: none)",
  )
  _data_option(parser)


def _checkpoint_argument(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "checkpoint",
    type=Path,
    metavar="CHECKPOINT",
    help="folder of one arm and seed, WORKDIR/ARM/SEED, or one step inside (path)",
  )


def _data_option(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--data-dir", metavar="DIR", help="folder below which sources look (path; default: here)"
  )


def _trust_option(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--trust",
    action="store_true",
    help="import what a checkpoint's or a run's config names outside jaxtl and optax (flag; default: refuse)",
  )


def _device_options(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--num-devices", type=_count, metavar="N", help="use the first N devices (integer; default: all)"
  )
  parser.add_argument(
    "--cpu-devices",
    type=_count,
    metavar="N",
    help="split the CPU into N virtual devices (integer; default: 1)",
  )


def _take_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
  """Separates KEY=VALUE, wherever it stands and with or without `--config.`, from what argparse reads."""
  rest: list[str] = []
  overrides = []
  for argument in arguments:
    after_option = bool(rest) and rest[-1].startswith("--") and "=" not in rest[-1] and rest[-1] not in FLAGS
    if argument.startswith("--config."):
      overrides.append(argument.removeprefix("--config."))
    elif re.match(r"[A-Za-z_][\w-]*(\.[\w-]+)*=", argument) and not after_option:
      overrides.append(argument)
    else:
      rest.append(argument)
  return rest, overrides


def _names(text: str) -> list[str]:
  names = [name for name in text.split(",") if name]
  if not names:
    raise argparse.ArgumentTypeError(f"{text!r} names nothing; write names like a,b")
  return names


def _count(text: str) -> int:
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
  return int(text)


def _fraction(text: str) -> float | str:
  """A number, or "none"."""
  if text == "none":
    return text
  try:
    return float(text)
  except ValueError:
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'none'") from None


def _channels(text: str) -> tuple[float, ...]:
  try:
    numbers = tuple(float(number) for number in text.split(","))
  except ValueError:
    numbers = ()
  if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
    raise argparse.ArgumentTypeError(f"{text!r} is not three numbers like 0.5,0.5,0.5")
  return numbers


def _numbers(text: str) -> list[int]:
  try:
    return [int(number) for number in text.split(",")]
  except ValueError:
    raise argparse.ArgumentTypeError(f"{text!r} is no list of integers like 0,1") from None
