"""What the commands do, given their options."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxtl import config as config_lib
from jaxtl import exit_reason, launching, supervision, train
from jaxtl.errors import CheckpointError, ConfigError, InputError, RunError, StorageError, printable
from jaxtl.launching import arguments as launch_arguments
from jaxtl.studies import study
from jaxtl.train import checkpoint, processes
from jaxtl.train.guard import Interruption, Watchdog
from jaxtl.train.runtime import Runtime
from jaxtl.train.writer import Progress, check_new_folder, is_first_process, write_folder


def run(options: argparse.Namespace) -> None:
  """`jaxtl run`: every arm with every seed, then the report."""
  config = study.load_config(options.config, options.overrides)
  study.parse_config(config)  # mistakes show before anything is made
  workdir = options.workdir or supervision.default_workdir(options.config)
  processes.start(options.cluster, gather=options.gather_limit, heartbeat=options.heartbeat)
  runtime = make_runtime(options)
  runtime.quarantine = workdir / exit_reason.of_process("quarantine.jsonl", jax.process_index())
  runtime.watchdog = Watchdog(limit=options.hang_limit, folder=workdir)
  with runtime.watched():
    with Interruption(workdir).installed() as interruption:
      runtime.interruption = interruption
      study.run_study(
        config,
        workdir=workdir,
        runtime=runtime,
        arms=options.arms,
        seeds=options.seeds,
        command=options.command_line,
      )
    if not options.no_report and is_first_process():
      runtime.beat()
      _write_report(workdir, workdir / "report", options.data_dir, trust=options.trust)


def launch(options: argparse.Namespace) -> int:
  """`jaxtl launch`: what would start a run elsewhere, or with --yes its start; returns its exit code."""
  if options.dry_run and options.write:
    raise ConfigError("--dry-run writes nothing, so --write has no meaning; leave one of them out")
  if options.dry_run and options.yes:
    raise ConfigError("--dry-run and --yes contradict each other; write one of them")
  config = study.load_config(options.config, options.overrides)
  parsed, arms = study.parse_config(config)
  study.check_chosen(options.arms, options.seeds, parsed)
  default = supervision.default_workdir(options.config)
  job, given = launch_arguments.job_of(
    options, name="-".join(default.parts[1:]), workdir=str(default), arms=tuple(arms), seeds=parsed.seeds
  )
  folder = options.write or Path("runs", "launch", job.name)
  plan = launching.render(options.target, job, folder, given=given)
  if options.yes:
    return launching.submit(plan, folder)
  _show(plan.text(folder), end="")
  if not options.dry_run:
    if options.write:
      launching.write(plan, folder)
    print("jaxtl: nothing has been submitted; add --yes to do it", file=sys.stderr)
  return 0


def check(options: argparse.Namespace) -> None:
  """`jaxtl check`: the recipe in numbers, with nothing trained."""
  from jaxtl.studies import recipe

  config = study.load_config(options.config, options.overrides)
  if options.print_config:
    _show(json.dumps(config, indent=2))
    return
  _show(recipe.describe(config, make_runtime(options), compiled=options.compile), end="")


def verify_resume(options: argparse.Namespace) -> int:
  """`jaxtl verify-resume`: 1 where a resumed run is not the uninterrupted one."""
  from jaxtl.studies import resume

  config = study.load_config(options.config, options.overrides)
  plan = resume.make_plan(
    config, arm=options.arm, seed=options.seed, steps=options.steps, kill_after=options.kill_after
  )
  if part := resume.part(os.environ):
    resume.train_part(plan, *part, make_runtime(options))
    return 0
  with tempfile.TemporaryDirectory(prefix="jaxtl-") as folder:
    finding = resume.verify(plan, options.command_line[1:], Path(folder))
  _show(finding)
  return 1 if finding.unequal else 0


def ckpt_inspect(options: argparse.Namespace) -> None:
  """`jaxtl ckpt inspect`: what a checkpoint holds, by its manifest alone."""
  from jaxtl.train import contents

  _show(contents.describe(options.checkpoint))


def ckpt_verify(options: argparse.Namespace) -> int:
  """`jaxtl ckpt verify`: 5 where a step is damaged or cannot be read, else 2 where one has another format."""
  from jaxtl.train import contents

  verdicts = []
  for verdict in contents.verify(options.path):
    verdicts.append(verdict)
    _show(verdict, flush=True)
  kinds = {verdict.kind for verdict in verdicts}
  if kinds & {"damaged", "unread"}:
    return StorageError.code
  return CheckpointError.code if "unknown" in kinds else 0


def ckpt_diff(options: argparse.Namespace) -> int:
  """`jaxtl ckpt diff`: 1 where they differ, as diff has it."""
  from jaxtl.train import contents

  lines = contents.differences(options.checkpoint, options.other)
  _show("\n".join(lines) or "equal: config and every array")
  return 1 if lines else 0


def doctor(options: argparse.Namespace) -> int:
  """`jaxtl doctor`: what a run would find here; 1 where something is wrong."""
  from jaxtl import doctor as doctor_lib

  return doctor_lib.examine(options, lambda: make_runtime(options))


def evaluate(options: argparse.Namespace) -> None:
  """`jaxtl eval`: the measures of a checkpoint on a data set, and with --out all that explains them."""
  measure = _chosen_measure(options)
  if measure is not None:
    _measure(options, measure)
    return
  from jaxtl import data as data_lib
  from jaxtl.studies import evaluation, evaluation_page, evaluation_tables, label_map

  runtime = make_runtime(options)
  if options.out:
    check_new_folder(options.out)
  _check_zero_shot(options)
  weights = checkpoint.load(options.checkpoint)
  source = data_lib.from_name(
    name=options.data, split=options.split, data_dir=options.data_dir, **_columns(options)
  )
  data_lib.need_two_classes(source.classes, name=source.name)
  runtime.note_left_out(source)
  if options.zero_shot:
    weights = _with_zero_shot_head(weights, source.classes, options)
  plan = evaluation.plan_of(weights, _preprocessing(options), trust=options.trust)
  labels = label_map.match_classes(
    plan.weights.classes,
    source.classes,
    at=options.data,
    subset=options.subset and not options.zero_shot,
    class_map=label_map.read_class_map(options.class_map) if options.class_map else None,
  )
  result = evaluation.evaluate(
    plan,
    source,
    labels,
    batch_size=options.batch_size,
    runtime=runtime,
    bad_records=data_lib.BadRecords(options.max_bad_records, runtime.progress.note),
  )
  if not is_first_process():
    return
  _show(evaluation_tables.terminal_table(result))
  if options.out:
    write_folder(options.out, evaluation_page.files(result))
    _show(f"report: {options.out / 'index.html'}")


def _check_zero_shot(options: argparse.Namespace) -> None:
  """ConfigError where the options of a zero-shot head are not all there, or have nothing to say."""
  needed = {"--text": options.text, "--vocabulary": options.vocabulary}
  if not options.zero_shot:
    if given := [name for name, value in needed.items() if value is not None]:
      raise ConfigError(f"{given[0]} is of --zero-shot PROMPTS; write both, or neither")
    return
  if missing := [name for name, value in needed.items() if value is None]:
    raise ConfigError(f"--zero-shot needs {' and '.join(missing)}: the text tower, and its vocabulary file")
  if options.class_map:
    raise ConfigError("--class-map has no meaning with --zero-shot; write labels into a JSON file of prompts")


def _with_zero_shot_head(
  weights: checkpoint.Weights, classes: Sequence[str], options: argparse.Namespace
) -> checkpoint.Weights:
  """An image tower with the head that a text tower makes of the data's classes."""
  maker = train.zero_shot(
    text=str(options.text),
    vocabulary=str(options.vocabulary),
    prompts=options.zero_shot,
    subset=options.subset,
  )
  made = train.with_head(weights, maker(classes, trust=options.trust), classes)
  how = f"{weights.path}, zero-shot by {options.text} in the words of {options.zero_shot}"
  return dataclasses.replace(made, path=how)


def _chosen_measure(options: argparse.Namespace) -> str | None:
  """ "flatness" or "layers" where the options ask for one of them.

  Raises:
    ConfigError: they ask for both, or have an option that belongs to another one.
  """
  if options.flatness and options.layers:
    raise ConfigError("--flatness and --layers measure different things; write one of them")
  measure = "flatness" if options.flatness else "layers" if options.layers else None
  if measure is None and options.num_examples is not None:
    raise ConfigError("--num-examples is of --flatness and --layers; an evaluation sees every image")
  if measure != "layers" and (given := _layer_options(options)):
    raise ConfigError(f"--{next(iter(given)).replace('_', '-')} is of --layers; add that, or leave it out")
  if measure is not None:
    for name in ("subset", "class_map", "zero_shot", "text", "vocabulary"):
      if getattr(options, name):
        raise ConfigError(f"--{name.replace('_', '-')} has no meaning with --{measure}; leave it out")
  return measure


def _layer_options(options: argparse.Namespace) -> dict[str, Any]:
  """The fields of `Diagnosis` that the options give."""
  names = ("seed", "groups", "cross_fit", "refine_steps", "cross_check", "choose_by")
  values = {name: getattr(options, name) for name in names}
  return {name: value for name, value in values.items() if value is not None and value is not False}


def _measure(options: argparse.Namespace, measure: str) -> None:
  """`jaxtl eval --flatness` or `--layers`: a study of one checkpoint."""
  from jaxtl.studies import diagnosis, diagnosis_tables, flatness, flatness_tables, network

  if options.out and not (options.out / "config.json").is_file():
    check_new_folder(options.out)
  start, runtime = str(options.checkpoint), make_runtime(options)
  data = network.data_config(
    start,
    options.data,
    split=options.split,
    data_dir=options.data_dir,
    columns=_columns(options),
    preprocessing=_preprocessing(options),
    batch_size=options.batch_size,
    max_bad_records=options.max_bad_records,
    trust=options.trust,
  )
  if measure == "flatness":
    config = flatness.config_of(start, data, num_examples=options.num_examples or 512)
  else:
    given = {"num_examples": options.num_examples or 1000, **_layer_options(options)}
    config = diagnosis.config_of(start, {"data": data, **given})
  with contextlib.ExitStack() as stack:
    workdir = options.out
    if workdir is None:
      workdir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxtl-")))
    _note_small_data(options, data, runtime)
    try:
      rows = study.run_study(config, workdir=workdir, runtime=runtime, command=options.command_line)
    except (InputError, RunError) as error:
      raise type(error)(_as_typed(str(error))) from error
    if not is_first_process():
      return
    _show((flatness_tables if measure == "flatness" else diagnosis_tables).terminal_table(rows))
    if options.out:
      _write_report(options.out, options.out / "report", options.data_dir, trust=options.trust)


def _note_small_data(options: argparse.Namespace, data: Mapping[str, Any], runtime: Runtime) -> None:
  """Says so where `--num-examples` is more than the data have."""
  from jaxtl import data as data_lib

  if options.num_examples is None:
    return
  keywords = {name: value for name, value in data["source"].items() if name != "make"}
  source = data_lib.from_name(data_dir=options.data_dir, **keywords)
  if (there := len(source)) < options.num_examples:
    runtime.progress.note(
      f"--num-examples is {options.num_examples}, and {source.name} has {there}: all are measured"
    )


def _as_typed(said: str) -> str:
  """What a study of one checkpoint says, in the words of `jaxtl eval`, whose options made its config."""
  field = r"(?<![\w./])(?:base\.)?(?:flatness|diagnosis)\."
  said = re.sub(r"^(config\.arms\.checkpoint(: |\.)|checkpoint/0: )", "", said)
  said = re.sub(field + r"data(\.source(\.name)?\b|\b(?!\.))", "--data", said)
  said = re.sub(field + r"(?:data\.)?([a-z]\w*)", lambda found: "--" + found[1].replace("_", "-"), said)
  return re.sub(r"(?<![\w./])base\.start\b", "CHECKPOINT", said).replace("--workdir", "--out")


def _preprocessing(options: argparse.Namespace) -> dict[str, Any]:
  """The fields of `data.Preprocessing` that the options give."""
  given = {
    "size": options.image_size,
    "crop_fraction": options.crop_fraction,
    "interpolation": options.interpolation,
    "mean": options.mean,
    "std": options.std,
    "upright": None if options.orientation is None else options.orientation == "upright",
  }
  return {name: None if value == "none" else value for name, value in given.items() if value is not None}


def _columns(options: argparse.Namespace) -> dict[str, Any]:
  """The columns of Parquet files that the options name."""
  given = {"label_column": options.label_column, "image_column": options.image_column}
  return {name: column for name, column in given.items() if column is not None}


def import_weights(options: argparse.Namespace) -> None:
  """`jaxtl import`: somebody's weights as a checkpoint."""
  from jaxtl import pretrained
  from jaxtl.pretrained import importing, mapping, verify

  layout = pretrained.LAYOUTS[options.layout]
  out = options.out or Path("runs", "import", options.model)
  if out.exists():
    raise InputError(f"{out} exists already; give --out a folder that does not")
  if options.no_head and options.classes:
    raise InputError(
      "--classes names the outputs of a classifier, which --no-head leaves out; give one of them"
    )
  make_runtime(options)
  imported = importing.import_weights(
    options.file,
    model=options.model,
    layout=layout,
    keywords=config_lib.override({}, options.overrides),
    classes=importing.read_classes(options.classes) if options.classes else None,
    allow=options.allow,
    preprocessing=_preprocessing(options),
    head=not options.no_head,
    prefix=options.prefix,
  )
  _show(mapping.table(imported), end="")
  if options.verify:
    error = verify.verify(imported, library=layout.library)
    _show(f"verified with {layout.library}: 8 inputs, largest difference {error:.1e} of the largest output")
  checkpoint.save_weights(imported.weights, out)
  _show(f"wrote {out}")


def export(options: argparse.Namespace) -> None:
  """`jaxtl export`: the weights with their class list and preprocessing, readable without jaxtl."""
  from jaxtl.pretrained import exporting

  weights = checkpoint.load(options.checkpoint)
  make_runtime(options)
  exporting.export(weights, options.out, format=options.format, trust=options.trust)
  _show(f"wrote {options.out} from {weights.path}")


def report(options: argparse.Namespace) -> None:
  """`jaxtl report`: the table and figures of a run, finished or not."""
  # A study of linear probes alone has rows and no training metrics.
  measured = (*options.workdir.glob("*/*/metrics.jsonl"), *options.workdir.glob("*/*/rows.jsonl"))
  if (options.workdir / "config.json").is_file() and not measured:
    raise InputError(f"nothing has been measured in {options.workdir} yet; run it first")
  _write_report(
    options.workdir, options.out or options.workdir / "report", options.data_dir, trust=options.trust
  )


def data_check(options: argparse.Namespace) -> None:
  """`jaxtl data check`: what a data set holds."""
  from jaxtl import data as data_lib

  columns = _columns(options)
  _show(data_lib.check_source(options.source, data_dir=options.data_dir, out=options.out, **columns))


def make_runtime(options: argparse.Namespace) -> Runtime:
  """The devices and the status line, as the options ask for."""
  if options.cpu_devices:
    jax.config.update("jax_num_cpu_devices", options.cpu_devices)
  cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxtl" / "xla"
  jax.config.update("jax_compilation_cache_dir", str(cache))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  return Runtime(
    train.make_mesh(options.num_devices, model=options.model_devices),
    data_dir=getattr(options, "data_dir", None),
    progress=Progress(),
    trust=getattr(options, "trust", False),
  )


def _show(what: object, *, end: str = "\n", flush: bool = False) -> None:
  """Prints text that may contain names from outside, such as those of classes."""
  print(printable(str(what), lines=True), end=end, flush=flush)


def _write_report(workdir: Path, out: Path, data_dir: str | None, *, trust: bool) -> None:
  from jaxtl.studies import report as report_lib

  page = report_lib.write(workdir, out, data_dir=data_dir, trust=trust)
  _show(f"report: {page}")
