"""`jaxtl finetune`: fine-tunes weights on a folder of images, and recommends one of them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import keyword
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl.checkpoints import checkpoint
from jaxtl.cli import run as run_command
from jaxtl.cli.output import show
from jaxtl.config import plain
from jaxtl.data.names import splits_of_kind
from jaxtl.errors import CheckpointError, DataError, InputError, printable
from jaxtl.host import processes
from jaxtl.host.files import write_atomically
from jaxtl.host.processes import is_first_process
from jaxtl.studies.transfer import recipe
from jaxtl.studies.transfer.summary import summary

# Shares of the images that are held out where the data have no split for it.
TEST, VALIDATION = 0.2, 0.15
# Columns of the config that is written.
WIDTH = 90
# Folder of the imported weights, inside that of the run.
IMPORTED = "weights"
CONFIG = "config.py"


def finetune(options: argparse.Namespace) -> None:
  """Runs `jaxtl finetune`: writes a config of the transfer study, runs it, and prints its result."""
  runtime = run_command.begin(options)  # first, because reading weights computes
  name = _plain_name(Path(options.data).name.removeprefix("tfds:"))
  out = options.out or Path("runs", name)
  for note in processes.from_first(lambda: _prepare(options, name, out)):
    _show(note)
  config_file = out / CONFIG
  options.config, options.workdir, options.overrides = config_file, out, []
  options.arms = options.seeds = None
  run_command.run(options, runtime)
  if is_first_process():
    show(summary(out), end="")
  _show(f"config: {config_file} (jaxtl run {config_file} --workdir {out} gives the same)")


def _show(line: str) -> None:
  if is_first_process():
    show(line)


def _prepare(options: argparse.Namespace, name: str, out: Path) -> list[str]:
  """Imports the weights and writes the config into `out`; returns notes about the choice of images."""
  config_file = out / CONFIG
  if out.exists() and {path.name for path in out.iterdir()} - {IMPORTED} and not config_file.exists():
    raise InputError(f"{out} holds other files; give another --out")
  sources, notes = held_out_parts(
    options.data,
    val=options.val,
    columns=_columns(options),
    data_dir=options.data_dir,
    chooses=not options.probe_only,
  )
  choices = recipe.Choices(
    probe_only=options.probe_only,
    epochs=options.epochs,
    steps=options.steps,
    rates=options.rates or recipe.RATES,
    augment=options.augment,
    seeds=options.num_seeds,
    batch_size=options.batch_size,
    max_bad_records=options.max_bad_records,
  )
  starts = _starts(options.start, out, model=options.model, layout=options.layout)
  transforms = _transforms(starts, options) if options.image_size or options.augment != "standard" else {}
  text = _text(recipe.config_of(name, sources, starts, transforms, choices), options.command_line)
  if not config_file.exists() or _body(config_file.read_text(encoding="utf-8")) != _body(text):
    if (out / "config.json").exists():
      raise InputError(f"{out} holds a fine-tuning with other options; give another --out, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(config_file, text)
  return notes


def held_out_parts(
  text: str, *, val: str | None, columns: Mapping[str, str], data_dir: str | None, chooses: bool = True
) -> tuple[dict[str, Any], list[str]]:
  """Returns specs of the training, validation and test images of a data set, and notes about the choice.

  Args:
    text: the data, as `data.open_source` takes them.
    val: a split, or a share of the training images, on which rate and step are chosen; None takes a
      validation split that is not needed as the test images, or holds out `VALIDATION` of the training
      images.
    columns: keywords of `data.from_name` that name columns of Parquet files.
    data_dir: the folder that paths are relative to.
    chooses: whether anything is chosen on validation images; otherwise only those that `val` names are left
      out of the training.

  Returns:
    The specs by part, and the notes. One of them counts test images that are also among the others.

  Raises:
    DataError: the data or the split do not exist, or a class has too few images to hold some out.
    InputError: `val` is neither a split nor a share.
  """
  splits = data_lib.open_source(text, data_dir=data_dir, **columns)
  by_kind = {kind: splits_of_kind(splits, kind) for kind in ("train", "val", "test")}
  train = by_kind["train"][0] if by_kind["train"] else next(iter(splits))
  if len(splits) > 1 and not by_kind["train"]:
    raise DataError(f"{text} has the splits {', '.join(splits)}; expected one named train")
  share, split = _share_or_split(val, splits, train)
  rest = [name for name in (*by_kind["test"], *by_kind["val"]) if name not in (split, train)]
  notes = []
  tested: Any = None
  if rest:
    tested = _spec(text, rest[0], columns, data_dir)
  held = chooses or val is not None
  if held and split is None and share is None and len(rest) > 1 and rest[-1] in by_kind["val"]:
    split = rest[-1]
  parts: dict[str, tuple[float, float]] = {"train": (0.0, 1.0)}
  end = 1.0
  if tested is None:
    parts["test"], end = (1.0 - TEST, 1.0), 1.0 - TEST
    notes.append(f"{TEST:.0%} of the images are held out for the test: the data have no split for it")
  if held and split is None:
    share = VALIDATION if share is None else share
    parts["validation"] = (end - share * end, end)
    end -= share * end
    notes.append(f"{share:.0%} of the training images are held out to choose rate and step")
  parts["train"] = (0.0, end)
  source = _spec(text, train, columns, data_dir)
  found = {part: _part(source, *bounds) for part, bounds in parts.items()}
  if tested is not None:
    found["test"] = tested
  if split is not None:
    found["validation"] = _spec(text, split, columns, data_dir)
  _check_counts(splits[train], parts)
  found = {part: found[part] for part in ("train", "validation", "test") if part in found}
  return found, [*notes, *_shared({part: _opened(spec, splits) for part, spec in found.items()})]


def _opened(spec: Mapping[str, Any], splits: Mapping[str, Any]) -> Any:
  """Returns the source of a part from the splits, which are open, so that no folder is listed again."""
  if "source" not in spec:
    return splits[spec["split"]]
  whole = splits[spec["source"]["split"]]
  return data_lib.part_of(source=whole, start=spec["start"], stop=spec["stop"])


def _shared(sources: dict[str, Any]) -> list[str]:
  """Returns a note if test images are also among the images that train or choose."""
  tested = sources.pop("test")
  pairs = {part: data_lib.shared_images(source, tested) for part, source in sources.items()}
  shared = {index for found in pairs.values() for _, index in found}
  if not shared:
    return []
  part, (first, second) = next((part, found[0]) for part, found in pairs.items() if found)
  return [
    f"{len(shared)} of {len(tested)} test images are also among those of {' and '.join(sources)}, which "
    f"flatters the result: {tested.where(second)} is {sources[part].where(first)}"
  ]


def _share_or_split(
  val: str | None, splits: Mapping[str, Any], train: str
) -> tuple[float | None, str | None]:
  if val is None:
    return None, None
  if val in splits and val != train:
    return None, val
  try:
    share = float(val)
  except ValueError:
    share = 0.0
  if not 0 < share < 1:
    others = ", ".join(name for name in splits if name != train) or "none"
    raise InputError(f"--val is {val!r}; expected a share between 0 and 1, or another split ({others})")
  return share, None


def _spec(text: str, split: str, columns: Mapping[str, str], data_dir: str | None) -> dict[str, Any]:
  """Returns a spec whose paths do not depend on the folder in which it is used."""
  path = Path(data_dir or ".") / text
  name = (
    text if text.startswith("tfds:") or not path.expanduser().exists() else str(path.expanduser().resolve())
  )
  return dict(make=".data.from_name", name=name, split=split, **columns)


def _part(source: Mapping[str, Any], start: float, stop: float) -> dict[str, Any]:
  if (start, stop) == (0.0, 1.0):
    return dict(source)
  return dict(make=".data.part_of", source=dict(source), start=round(start, 6), stop=round(stop, 6))


def _check_counts(source: Any, parts: Mapping[str, tuple[float, float]]) -> None:
  """Raises DataError if a part would get no image of some class."""
  if len(parts) == 1:
    return
  if not hasattr(source, "take"):
    raise DataError(f"{source.name} is a stream, from which no images can be held out; give --val SPLIT")
  data_lib.need_two_classes(source.classes, name=source.name)
  for label, name in enumerate(source.classes):
    count = int((source.labels == label).sum())
    for part, (start, stop) in parts.items():
      if round(round(stop, 6) * count) <= round(round(start, 6) * count):
        raise DataError(
          f"{source.name}: the class {name} has {count} images, too few to hold out {part} images; add "
          "images, or give splits of your own"
        )


def _starts(paths: Sequence[Path], out: Path, *, model: str | None, layout: str | None) -> dict[str, str]:
  """Returns arm -> checkpoint; files of other libraries are imported into `out`."""
  found: dict[str, str] = {}
  for path, name in zip(paths, distinct_names(paths, option="--start"), strict=True):
    try:
      checkpoint.find(path)
      found[name] = str(path.resolve())
      continue
    except CheckpointError as error:
      if not path.exists():
        raise InputError(f"no weight at {path}: expected a checkpoint, or a file of weights") from error
    found[name] = str(_imported(path, out / IMPORTED / name, model=model, layout=layout).resolve())
  return found


def _imported(path: Path, folder: Path, *, model: str | None, layout: str | None) -> Path:
  from jaxtl.pretrained import guessing

  imported = guessing.import_backbone(path, model=model, layout=layout)
  source = imported.weights.config["source"]
  if not folder.exists():
    folder.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_weights(imported.weights, folder)
    show(f"imported {path} as {imported.model.name} by the layout {source['layout']}")
    return folder
  new = json.loads(json.dumps(imported.weights.config))
  if found := config_lib.differences(checkpoint.load(folder).config, {**new, "step": 0}):
    raise InputError(
      f"{folder} is not {path}: {config_lib.first_few(found)}; give another --out, or remove it"
    )
  return folder


def distinct_names(paths: Sequence[Path], *, option: str) -> list[str]:
  """Returns short, distinct names for checkpoints, from the ends of their paths.

  Raises:
    InputError: a path is given twice; `option` is where it was given.
  """
  if len({path.resolve() for path in paths}) < len(paths):
    raise InputError(f"{option} has the same weight twice; give each once")
  for length in range(1, max(len(path.resolve().parts) for path in paths) + 1):
    names = [_plain_name("_".join(_parts(path)[-length:])) for path in paths]
    if len(set(names)) == len(names) and not any(name.isdecimal() for name in names):
      return names
  raise InputError(f"no distinct names for the weights {', '.join(map(str, paths))}; rename a file or folder")


def _parts(path: Path) -> list[str]:
  path = path.resolve()
  return [*path.parent.parts[1:], path.stem if path.is_file() else path.name]


def _plain_name(text: str) -> str:
  return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._") or "data"


def _columns(options: argparse.Namespace) -> dict[str, str]:
  given = dict(label_column=options.label_column, image_column=options.image_column)
  return {name: column for name, column in given.items() if column is not None}


def _transforms(starts: Mapping[str, str], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
  """Returns each weight's preprocessing as specs, at the size that the options ask for."""
  found = {}
  for name, start in starts.items():
    weights = checkpoint.load(start)
    own = weights.config.get("transforms")
    known = None if own is None else data_lib.Preprocessing.of(own, size=weights.config["image_shape"][0])
    if known is None:
      raise InputError(
        f"the preprocessing of {start} is unknown or unusual, so neither --image-size nor --augment can "
        "change it; leave them out"
      )
    size = options.image_size or known.size
    found[name] = plain(dataclasses.replace(known, size=size).specs())
  return found


_HEAD = '''"""{title}

Written by: {command}
`jaxtl run` gives the same numbers with this file. To change a value, also give another --workdir.
"""


def get_config():
  return {config}
'''


def _text(config: Mapping[str, Any], command: Sequence[str]) -> str:
  title = str(config["title"]).replace('"', "'").replace("\\", "/")
  words = printable(" ".join(command)).replace('"', "'").replace("\\", "/")
  return _HEAD.format(title=f"{title}.", command=words, config=code(plain(config), indent=2))


def code(value: Any, *, indent: int = 0) -> str:
  """Writes plain data as Python, with `dict(...)` where all keys are names, in lines of at most `WIDTH`.

  Args:
    value: mappings, sequences, numbers, text, True, False and None.
    indent: spaces before the lines after the first.
  """
  if isinstance(value, Mapping):
    # Python reads some letters of names as others (NFKC), so only ASCII names are safe.
    names = all(key.isascii() and key.isidentifier() and not keyword.iskeyword(key) for key in value)
    items = [
      f"{key}={code(item, indent=indent + 2)}" if names else f"{key!r}: {code(item, indent=indent + 2)}"
      for key, item in value.items()
    ]
    begin, end = ("dict(", ")") if names else ("{", "}")
  elif isinstance(value, (list, tuple)):
    items, begin, end = [code(item, indent=indent + 2) for item in value], "[", "]"
  else:
    return repr(value)
  line = f"{begin}{', '.join(items)}{end}"
  if len(line) + indent <= WIDTH and "\n" not in line:
    return line
  space = "\n" + " " * indent
  return f"{begin}{''.join(f'{space}  {item},' for item in items)}{space}{end}"


def _body(text: str) -> str:
  return text.partition("def get_config")[2]
