"""Arguments that several commands share, and the parsers of their values."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Any


def command(commands: Any, name: str, function: str, description: str) -> argparse.ArgumentParser:
  """Adds a command's parser; `function`, like "weights.export", names its implementation in `jaxtl.cli`."""
  parser = commands.add_parser(
    name, help=description, description=description[0].upper() + description[1:] + "."
  )
  parser.set_defaults(command=function, parser=parser)
  return parser


def local_path(text: str) -> Path:
  """Parses a path on this machine; refuses a URL, which would otherwise become a local folder."""
  if found := re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/+", text):
    raise argparse.ArgumentTypeError(
      f"expected a path on this machine, got {text!r}; mount that, and write where it is (for example "
      f"/mnt/{text[found.end() :]})"
    )
  return Path(text)


def local_folder(text: str) -> str:
  """Parses a path like `local_path`, and returns it as text."""
  local_path(text)
  return text


def config_options(parser: argparse.ArgumentParser, *, buckets: bool = False) -> None:
  """Adds the config, its overrides and the data folder; with `buckets` that folder may be in a bucket."""
  parser.add_argument(
    "config", type=local_path, metavar="CONFIG", help="a Python file with get_config() (path)"
  )
  parser.add_argument(
    "overrides",
    nargs="*",
    metavar="KEY=VALUE",
    help="replaces a value, e.g. base.epochs=2 or --config.base.epochs=2 (literal or text; default: none)",
  )
  data_option(parser, buckets=buckets)


def bad_records_option(parser: argparse.ArgumentParser) -> None:
  """Adds the budget of unreadable images."""
  parser.add_argument(
    "--max-bad-records",
    type=number,
    default=0,
    metavar="N",
    help="unreadable images that are skipped, each named, before it stops (integer; default: 0)",
  )


def checkpoint_argument(parser: argparse.ArgumentParser) -> None:
  """Adds the checkpoint folder."""
  parser.add_argument(
    "checkpoint",
    type=local_path,
    metavar="CHECKPOINT",
    help="folder of one arm and seed, WORKDIR/ARM/SEED, or one step inside (path)",
  )


def data_option(parser: argparse.ArgumentParser, *, buckets: bool = False) -> None:
  """Adds the folder in which data sources look."""
  parser.add_argument(
    "--data-dir",
    type=str if buckets else local_folder,
    metavar="DIR",
    help="folder below which sources look (path; default: here)",
  )


def column_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options that choose columns of Parquet files."""
  for kind in ("label", "image"):
    parser.add_argument(
      f"--{kind}-column",
      metavar="NAME",
      help=f"column of {kind}s in Parquet files (text; default: {kind!r}, or the only one)",
    )


def trust_option(parser: argparse.ArgumentParser) -> None:
  """Adds the option that lets configs that came with data import any name."""
  parser.add_argument(
    "--trust",
    action="store_true",
    help="import what a checkpoint's or a run's config names outside jaxtl and optax (flag; default: refuse)",
  )


def run_options(parser: argparse.ArgumentParser, *, handed_on: bool) -> None:
  """Adds the options that select a part of a study and set how it runs.

  Args:
    parser: the parser to extend.
    handed_on: whether the options are passed on to another command; a limit that is not given is then None.
  """
  parser.add_argument(
    "--arms", type=names, metavar="A,B", help="only these arms (names; default: all of the config's)"
  )
  parser.add_argument(
    "--seeds", type=numbers, metavar="0,1", help="only these seeds (integers; default: all of the config's)"
  )
  session_options(parser, handed_on=handed_on)


def session_options(parser: argparse.ArgumentParser, *, handed_on: bool = False) -> None:
  """Adds the options that set how a study runs; `handed_on` as in `run_options`."""
  parser.add_argument(
    "--no-report", action="store_true", help="do not write the report at the end (flag; default: write it)"
  )
  parser.add_argument(
    "--hang-limit",
    type=seconds,
    default=None if handed_on else 1800.0,
    metavar="S",
    help="a run without progress for this long ends with exit code 42; the longest compilation must fit in "
    "(seconds; default: 1800)",
  )
  parser.add_argument(
    "--gather-limit",
    type=seconds,
    default=None if handed_on else 300.0,
    metavar="S",
    help="processes of one run that have not all connected after this long end with exit code 42 (seconds; "
    "default: 300)",
  )
  parser.add_argument(
    "--heartbeat",
    type=count,
    default=None if handed_on else 10,
    metavar="S",
    help="a process that is silent for this long counts as lost, and the others end with exit code 42 "
    "(integer, seconds; default: 10)",
  )
  trust_option(parser)
  device_options(parser)


def device_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options that select devices."""
  parser.add_argument(
    "--num-devices", type=count, metavar="N", help="use the first N devices (integer; default: all)"
  )
  parser.add_argument(
    "--model-devices",
    type=count,
    default=1,
    metavar="N",
    help="devices along the model axis; the batch is split over the others (integer; default: 1)",
  )
  parser.add_argument(
    "--cpu-devices",
    type=count,
    metavar="N",
    help="split the CPU into N virtual devices (integer; default: 1)",
  )


def process_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options by which several processes find each other if their launcher does not say."""
  parser.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="address of process 0 (text; default: SLURM's or the TPU's, else one process)",
  )
  parser.add_argument(
    "--num-processes",
    type=count,
    metavar="N",
    help="number of processes; 1 without the other two trains alone (integer; default: as found)",
  )
  parser.add_argument(
    "--process-id", type=number, metavar="I", help="index of this process (integer; default: as found)"
  )


def class_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options that match the classes of the data to those of the model."""
  parser.add_argument(
    "--subset",
    action="store_true",
    help="score among the data's classes only, found among the model's by name (flag; default: same list)",
  )
  parser.add_argument(
    "--class-map",
    type=local_path,
    metavar="FILE",
    help="the same, with a JSON object of data class to model class (path; default: names agree)",
  )


def zero_shot_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options that build a classifier from class names."""
  parser.add_argument(
    "--zero-shot",
    metavar="PROMPTS",
    help="give an image tower of CLIP a classifier made of class names, with a set of prompts such as "
    "cifar10, or a JSON file of prompts (text; default: the checkpoint's own classifier)",
  )
  parser.add_argument(
    "--text",
    type=local_path,
    metavar="CHECKPOINT",
    help="the text tower for --zero-shot (path; default: none)",
  )
  parser.add_argument(
    "--vocabulary",
    type=local_path,
    metavar="FILE",
    help="the text tower's vocabulary for --zero-shot, as bpe_simple_vocab_16e6.txt.gz or a tokenizer.json "
    "(path; default: none)",
  )


def preprocessing_options(parser: argparse.ArgumentParser, *, own: str) -> None:
  """Adds the preprocessing options; `own` names the source of the default values."""
  parser.add_argument(
    "--image-size", type=count, metavar="N", help=f"side of the images in pixels (integer; default: {own})"
  )
  parser.add_argument(
    "--crop-fraction",
    type=fraction,
    metavar="F",
    help="image size over the shorter side before the middle is cut out; 'none' resizes without a cut "
    f"(number above 0 to 1; default: {own})",
  )
  parser.add_argument(
    "--interpolation", choices=("bilinear", "bicubic"), help=f"how images are resized (text; default: {own})"
  )
  parser.add_argument(
    "--orientation",
    choices=("upright", "stored"),
    help="turn images as their EXIF orientation says, or leave them as stored, like torchvision (text; "
    f"default: {own}, else upright)",
  )
  for name in ("mean", "std"):
    parser.add_argument(
      f"--{name}",
      type=channels,
      metavar="R,G,B",
      help=f"{name} of the channels on the scale from 0 to 1 (three numbers; default: {own})",
    )


def layer_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the layer diagnosis."""
  parser.add_argument(
    "--layers",
    action="store_true",
    help="measure instead how much the loss would fall if one layer alone were changed, and how curved it is "
    "there, on a subset of the images (flag; default: accuracy)",
  )
  parser.add_argument(
    "--seed", type=number, metavar="N", help="of the subset for --layers (integer; default: 0)"
  )
  parser.add_argument(
    "--groups",
    type=pattern,
    action="append",
    metavar="REGEX",
    help="blocks that are a layer for --layers, by their whole names; repeat it for more; the first "
    "parenthesis names the layer (text; default: every block, and a DenseNet's layers by stage)",
  )
  parser.add_argument(
    "--cross-fit",
    action="store_true",
    help="for --layers: the direction from one half of the images, the losses from the other (flag; default: "
    "both from all)",
  )
  parser.add_argument(
    "--refine-steps",
    type=number,
    metavar="N",
    help="for --layers: further steps of descent in each layer (integer; default: 0)",
  )
  parser.add_argument(
    "--cross-check",
    action="store_true",
    help="for --layers: kappa also from a Hessian-vector product (flag; default: no)",
  )
  parser.add_argument(
    "--choose-by",
    choices=("kappa", "kappa_rel"),
    help="for --layers: the curvature that chooses the layer to perturb (text; default: kappa)",
  )


def names(text: str) -> list[str]:
  """Parses comma-separated names."""
  names = [name for name in text.split(",") if name]
  if not names:
    raise argparse.ArgumentTypeError(f"expected names separated by commas, got {text!r} (for example a,b)")
  return names


def count(text: str) -> int:
  """Parses a positive integer."""
  if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
    raise argparse.ArgumentTypeError(f"expected a positive integer, got {text[:40]!r} (for example 8)")
  return int(text)


def fraction(text: str) -> float | str:
  """Parses a number or "none"."""
  if text == "none":
    return text
  try:
    return float(text)
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"{text!r} is neither a number nor 'none'; write one like 0.875"
    ) from None


def number(text: str) -> int:
  """Parses a non-negative integer."""
  if not re.fullmatch("[0-9]{1,18}", text):
    raise argparse.ArgumentTypeError(f"expected an integer of 0 or more, got {text[:40]!r} (for example 2)")
  return int(text)


def _float(text: str) -> float:
  """Parses a number; NaN if the text is not one."""
  try:
    return float(text)
  except ValueError:
    return math.nan


def seconds(text: str) -> float:
  """Parses a number of seconds above 0."""
  found = _float(text)
  if not 0 < found < math.inf:
    raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text!r} (for example 60)")
  return found


def share(text: str) -> float:
  """Parses a number between 0 and 1, both excluded."""
  found = _float(text)
  if not 0 < found < 1:
    raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r} (for example 0.5)")
  return found


def pattern(text: str) -> str:
  """Parses a regular expression."""
  try:
    re.compile(text)
  except re.error as error:
    raise argparse.ArgumentTypeError(
      f"{text!r} is not a regular expression ({error}); write one like 'stage1.*'"
    ) from None
  return text


def channels(text: str) -> tuple[float, ...]:
  """Parses three comma-separated numbers."""
  try:
    numbers = tuple(float(number) for number in text.split(","))
  except ValueError:
    numbers = ()
  if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
    raise argparse.ArgumentTypeError(f"{text!r} is not three numbers like 0.5,0.5,0.5")
  return numbers


def numbers(text: str) -> list[int]:
  """Parses comma-separated integers."""
  try:
    return [int(number) for number in text.split(",")]
  except ValueError:
    raise argparse.ArgumentTypeError(f"expected a list of integers, got {text!r} (for example 0,1)") from None


def positive(text: str) -> float:
  """Parses a number above 0."""
  found = _float(text)
  if not 0 < found < math.inf:
    raise argparse.ArgumentTypeError(f"expected a number above 0, got {text[:40]!r} (for example 10)")
  return found


def rates(text: str) -> tuple[float, ...]:
  """Parses comma-separated learning rates."""
  try:
    found = tuple(float(rate) for rate in text.split(","))
  except ValueError:
    found = ()
  if not found or not all(0 < rate < math.inf for rate in found) or len(set(found)) < len(found):
    raise argparse.ArgumentTypeError(
      f"expected different rates above 0, separated by commas, got {text[:40]!r} (for example 1e-4,1e-3)"
    )
  return found


def default_workdir(config: Path) -> Path:
  """Returns runs/NAME, where NAME is the config's path below `configs`.

  Configs with the same file name in two folders therefore do not clash.
  """
  parts = config.with_suffix("").parts
  below = parts[len(parts) - parts[::-1].index("configs") :] if "configs" in parts else parts[-1:]
  return Path("runs", *below)


def preprocessing_choice(options: argparse.Namespace) -> dict[str, Any]:
  """Returns the fields of `data.Preprocessing` that the options set."""
  given = {
    "size": options.image_size,
    "crop_fraction": options.crop_fraction,
    "interpolation": options.interpolation,
    "mean": options.mean,
    "std": options.std,
    "upright": None if options.orientation is None else options.orientation == "upright",
  }
  return {name: None if value == "none" else value for name, value in given.items() if value is not None}


def column_choice(options: argparse.Namespace) -> dict[str, Any]:
  """Returns the columns of Parquet files that the options name."""
  given = {"label_column": options.label_column, "image_column": options.image_column}
  return {name: column for name, column in given.items() if column is not None}
