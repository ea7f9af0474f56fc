"""What the commands do, given their options."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxtl import config as config_lib
from jaxtl import train
from jaxtl.errors import DataError, InputError
from jaxtl.studies import study
from jaxtl.train import checkpoint, sharding
from jaxtl.train.evaluate import evaluate as evaluate_weights
from jaxtl.train.runtime import Runtime, same_classes
from jaxtl.train.writer import Progress, write_atomically


def run(options: argparse.Namespace) -> None:
  """`jaxtl run`: every arm with every seed, then the report."""
  config = study.load_config(options.config, options.overrides)
  study.parse_config(config)  # mistakes show before anything is made
  workdir = options.workdir or default_workdir(options.config)
  runtime = make_runtime(options)
  study.run_study(
    config,
    workdir=workdir,
    runtime=runtime,
    arms=options.arms,
    seeds=options.seeds,
    command=options.command_line,
  )
  if not options.no_report:
    _write_report(workdir, workdir / "report", options.data_dir, trust=options.trust)


def check(options: argparse.Namespace) -> None:
  """`jaxtl check`: the recipe in numbers, with nothing trained."""
  from jaxtl.studies import recipe

  config = study.load_config(options.config, options.overrides)
  if options.print_config:
    print(json.dumps(config, indent=2))
    return
  print(recipe.describe(config, make_runtime(options)), end="")


def evaluate(options: argparse.Namespace) -> None:
  """`jaxtl eval`: the measures of a checkpoint on a data set."""
  from jaxtl import data as data_lib

  runtime = make_runtime(options)
  weights = checkpoint.load(options.checkpoint)
  if weights.config["transforms"] is None:
    raise InputError(f"{weights.path} was trained without an evaluation set, and has no preprocessing to use")
  trusted = None if options.trust else config_lib.TRUSTED
  model_spec = weights.model_spec(trust=options.trust)
  task_spec = config_lib.spec(weights.config["task"], at="the checkpoint's task", trusted=trusted)
  transforms = tuple(
    config_lib.spec(value, at="the checkpoint's transforms", trusted=trusted)
    for value in weights.config["transforms"]
  )
  source = _choose_split(data_lib.open_source(options.data, data_dir=options.data_dir), options.split)
  same_classes(weights.classes, source.classes, at=options.data)
  sharding.check_batch_size(options.batch_size, runtime.mesh, at="--batch-size")
  context = {"num_classes": len(weights.classes)}
  model, task = model_spec.realize(**context), task_spec.realize(**context)
  batches = data_lib.eval_batches(
    source,
    [spec.realize() for spec in transforms],
    batch_size=options.batch_size,
    bad_records=data_lib.BadRecords(options.max_bad_records, runtime.progress.note),
  )
  shape = next(iter(batches))["image"].shape[1:]
  if list(shape) != weights.config["image_shape"]:
    raise DataError(
      f"{options.data} gives images of {shape[0]} x {shape[1]}, and the checkpoint's preprocessing does not "
      f"resize them to its {weights.config['image_shape'][0]} x {weights.config['image_shape'][1]}"
    )
  numbers = evaluate_weights(
    jax.jit(task.measure(model)), weights.params, weights.batch_stats, batches, mesh=runtime.mesh
  )
  result = {"checkpoint": weights.path, "data": source.name, "num_examples": len(source)} | numbers
  for name, value in result.items():
    print(f"{name:14} {value:.4f}" if isinstance(value, float) else f"{name:14} {value}")
  if options.out:
    write_atomically(options.out, json.dumps(result, indent=1) + "\n")


def import_weights(options: argparse.Namespace) -> None:
  """`jaxtl import`: somebody's weights as a checkpoint."""
  from jaxtl import pretrained
  from jaxtl.pretrained import importing, mapping, verify

  layout = pretrained.LAYOUTS[options.layout]
  out = options.out or Path("runs", "import", options.model)
  if out.exists():
    raise InputError(f"{out} exists already; give --out a folder that does not")
  make_runtime(options)
  imported = importing.import_weights(
    options.file,
    model=options.model,
    layout=layout,
    keywords=config_lib.override({}, options.overrides),
    classes=importing.read_classes(options.classes) if options.classes else None,
    allow=options.allow,
    preprocessing=preprocessing_overrides(options),
  )
  print(mapping.table(imported), end="")
  if options.verify:
    error = verify.verify(imported, library=layout.library)
    print(f"verified with {layout.library}: 8 inputs, largest difference {error:.1e} of the largest output")
  checkpoint.save_weights(imported.weights, out)
  print(f"wrote {out}")


def preprocessing_overrides(options: argparse.Namespace) -> dict[str, Any]:
  """The fields of `Preprocessing` that the options give."""
  given = dict(
    size=options.image_size, interpolation=options.interpolation, mean=options.mean, std=options.std
  )
  found = {name: value for name, value in given.items() if value is not None}
  if options.crop_fraction is not None:
    found["crop_fraction"] = None if options.crop_fraction == "none" else options.crop_fraction
  return found


def export(options: argparse.Namespace) -> None:
  """`jaxtl export`: the weights with their class list and preprocessing, readable without jaxtl."""
  from jaxtl.pretrained import exporting

  weights = checkpoint.load(options.checkpoint)
  make_runtime(options)
  exporting.export(weights, options.out, format=options.format, trust=options.trust)
  print(f"wrote {options.out} from {weights.path}")


def report(options: argparse.Namespace) -> None:
  """`jaxtl report`: the table and figures of a run, finished or not."""
  if (options.workdir / "config.json").is_file() and not any(options.workdir.glob("*/*/metrics.jsonl")):
    raise InputError(f"nothing has been measured in {options.workdir} yet; run it first")
  _write_report(
    options.workdir, options.out or options.workdir / "report", options.data_dir, trust=options.trust
  )


def data_check(options: argparse.Namespace) -> None:
  """`jaxtl data check`: what a data set holds."""
  from jaxtl import data as data_lib

  print(data_lib.check_source(options.source, data_dir=options.data_dir, out=options.out))


def default_workdir(config: Path) -> Path:
  """runs/NAME, where NAME is the config's path below `configs`: namesakes in two folders do not clash."""
  parts = config.with_suffix("").parts
  below = parts[len(parts) - parts[::-1].index("configs") :] if "configs" in parts else parts[-1:]
  return Path("runs", *below)


def make_runtime(options: argparse.Namespace) -> Runtime:
  """The devices and the status line, as the options ask for."""
  if options.cpu_devices:
    jax.config.update("jax_num_cpu_devices", options.cpu_devices)
  cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxtl" / "xla"
  jax.config.update("jax_compilation_cache_dir", str(cache))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  return Runtime(
    train.make_mesh(options.num_devices),
    data_dir=getattr(options, "data_dir", None),
    progress=Progress(),
    trust=getattr(options, "trust", False),
  )


def _choose_split(splits: Mapping[str, Any], wanted: str | None) -> Any:
  if wanted is not None:
    if wanted not in splits:
      raise DataError(f"no split {wanted!r}; there is {', '.join(splits)}")
    return splits[wanted]
  if len(splits) == 1:
    return next(iter(splits.values()))
  for name in ("test", "val", "validation"):
    if name in splits:
      return splits[name]
  raise DataError(f"which split? Give --split, one of {', '.join(splits)}")


def _write_report(workdir: Path, out: Path, data_dir: str | None, *, trust: bool) -> None:
  from jaxtl.studies import report as report_lib

  page = report_lib.write(workdir, out, data_dir=data_dir, trust=trust)
  print(f"report: {page}")
