"""`jaxtl eval`: measures a checkpoint's accuracy, flatness or layers on a data set."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl import zero_shot
from jaxtl.checkpoints import checkpoint
from jaxtl.cli.options import column_choice, preprocessing_choice
from jaxtl.cli.output import show
from jaxtl.cli.report import write_report
from jaxtl.cli.runtime import make_runtime
from jaxtl.errors import ConfigError, InputError, RunError
from jaxtl.host.files import check_new_folder, write_folder
from jaxtl.host.processes import is_first_process
from jaxtl.measure import prepared
from jaxtl.runner import run as study
from jaxtl.studies.layers import diagnosis
from jaxtl.train.runtime import Runtime

# Options that choose among classes, or make them.
_OF_CLASSES = ("subset", "class_map", "zero_shot", "text", "vocabulary")


def evaluate(options: argparse.Namespace) -> None:
  """Runs `jaxtl eval`: evaluates a checkpoint on a data set; with --out it also writes the full report."""
  measure = _chosen_measure(options)
  if measure is not None:
    _measure(options, measure)
    return
  from jaxtl import data as data_lib
  from jaxtl.evaluation import evaluate as evaluation
  from jaxtl.evaluation import label_map, page
  from jaxtl.evaluation import tables as evaluation_tables

  runtime = make_runtime(options)
  if options.out:
    check_new_folder(options.out)
  _check_zero_shot(options)
  weights = checkpoint.load(options.checkpoint)
  source = data_lib.from_name(
    name=options.data, split=options.split, data_dir=options.data_dir, **column_choice(options)
  )
  task = prepared.task_of(weights, trust=options.trust)
  if task.realize(num_classes=len(weights.classes)).loss is None:
    _evaluate_task(options, weights, source, task.path, runtime)
    return
  data_lib.need_two_classes(source.classes, name=source.name)
  runtime.note_left_out(source)
  if options.zero_shot:
    weights = _with_zero_shot_head(weights, source.classes, options)
  plan = prepared.prepare(weights, preprocessing_choice(options), trust=options.trust)
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
  show(evaluation_tables.terminal_table(result))
  if options.out:
    write_folder(options.out, page.files(result))
    show(f"report: {options.out / 'index.html'}")


def _evaluate_task(
  options: argparse.Namespace, weights: checkpoint.Weights, source: Any, task: str, runtime: Runtime
) -> None:
  """Evaluates a checkpoint of a task that is not a classification by the measures of the task.

  Raises:
    ConfigError: an option is for classifications.
  """
  from jaxtl.data import BadRecords
  from jaxtl.evaluation import task_measures, task_page

  for name in _OF_CLASSES:
    if getattr(options, name):
      raise ConfigError(
        f"--{name.replace('_', '-')} is for classifications, and {weights.path} was trained on {task}; leave "
        "it out"
      )
  runtime.note_left_out(source)
  result = task_measures.evaluate_task(
    prepared.prepare(weights, preprocessing_choice(options), trust=options.trust),
    source,
    batch_size=options.batch_size,
    runtime=runtime,
    bad_records=BadRecords(options.max_bad_records, runtime.progress.note),
  )
  if not is_first_process():
    return
  show(task_page.task_terminal_table(result))
  if options.out:
    write_folder(options.out, task_page.task_files(result))
    show(f"report: {options.out / 'index.html'}")


def _check_zero_shot(options: argparse.Namespace) -> None:
  """Raises ConfigError if the options of a zero-shot head are incomplete or have no effect."""
  needed = {"--text": options.text, "--vocabulary": options.vocabulary}
  if not options.zero_shot:
    if given := [name for name, value in needed.items() if value is not None]:
      raise ConfigError(f"{given[0]} requires --zero-shot PROMPTS; give both or neither")
    return
  if missing := [name for name, value in needed.items() if value is None]:
    raise ConfigError(f"--zero-shot needs {' and '.join(missing)}: the text tower, and its vocabulary file")
  if options.class_map:
    raise ConfigError(
      "--class-map cannot be combined with --zero-shot; write labels into a JSON file of prompts"
    )


def _with_zero_shot_head(
  weights: checkpoint.Weights, classes: Sequence[str], options: argparse.Namespace
) -> checkpoint.Weights:
  """Returns an image tower whose head a text tower computes from the data's class names."""
  maker = zero_shot.zero_shot(
    text=str(options.text),
    vocabulary=str(options.vocabulary),
    prompts=options.zero_shot,
    subset=options.subset,
  )
  made = zero_shot.with_head(weights, maker(classes, trust=options.trust), classes)
  how = f"{weights.path}, zero-shot by {options.text} with the prompts {options.zero_shot}"
  return dataclasses.replace(made, path=how)


def _chosen_measure(options: argparse.Namespace) -> str | None:
  """Returns "flatness" or "layers" if the options ask for one of them, else None.

  Raises:
    ConfigError: the options ask for both, or include one that belongs to another measure.
  """
  if options.flatness and options.layers:
    raise ConfigError("--flatness and --layers measure different things; give one of them")
  measure = "flatness" if options.flatness else "layers" if options.layers else None
  if measure is None and options.num_examples is not None:
    raise ConfigError("--num-examples requires --flatness or --layers; an evaluation uses every image")
  if measure != "layers" and (given := _layer_options(options)):
    raise ConfigError(f"--{next(iter(given)).replace('_', '-')} requires --layers; add that, or leave it out")
  if measure is not None:
    for name in _OF_CLASSES:
      if getattr(options, name):
        raise ConfigError(f"--{name.replace('_', '-')} cannot be combined with --{measure}; leave it out")
  return measure


def _layer_options(options: argparse.Namespace) -> dict[str, Any]:
  """Returns the fields of `Diagnosis` that the options set."""
  names = ("seed", "groups", "cross_fit", "refine_steps", "cross_check", "choose_by")
  values = {name: getattr(options, name) for name in names}
  return {name: value for name, value in values.items() if value is not None and value is not False}


def _measure(options: argparse.Namespace, measure: str) -> None:
  """Runs `jaxtl eval --flatness` or `--layers`: a study of one checkpoint."""
  from jaxtl.measure import network
  from jaxtl.studies.flatness import study as flatness
  from jaxtl.studies.flatness import tables as flatness_tables
  from jaxtl.studies.layers import diagnosis_tables

  if options.out and not (options.out / "config.json").is_file():
    check_new_folder(options.out)
  start, runtime = str(options.checkpoint), make_runtime(options)
  data = network.data_config(
    start,
    options.data,
    split=options.split,
    data_dir=options.data_dir,
    columns=column_choice(options),
    preprocessing=preprocessing_choice(options),
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
    show((flatness_tables if measure == "flatness" else diagnosis_tables).terminal_table(rows))
    if options.out:
      write_report(options.out, options.out / "report", options.data_dir, trust=options.trust)


def _note_small_data(options: argparse.Namespace, data: Mapping[str, Any], runtime: Runtime) -> None:
  """Prints a note if `--num-examples` exceeds the size of the data set."""
  from jaxtl import data as data_lib

  if options.num_examples is None:
    return
  keywords = {name: value for name, value in data["source"].items() if name != "make"}
  source = data_lib.from_name(data_dir=options.data_dir, **keywords)
  if (there := len(source)) < options.num_examples:
    runtime.progress.note(
      f"--num-examples is {options.num_examples}, but {source.name} has only {there}: all are measured"
    )


def _as_typed(said: str) -> str:
  """Rewrites an error message of a one-checkpoint study in the option names of `jaxtl eval`.

  The options of `jaxtl eval` made the config that the message refers to.
  """
  field = r"(?<![\w./])(?:base\.)?(?:flatness|diagnosis)\."
  said = re.sub(r"^(config\.arms\.checkpoint(: |\.)|checkpoint/0: )", "", said)
  said = re.sub(field + r"data(\.source(\.name)?\b|\b(?!\.))", "--data", said)
  said = re.sub(field + r"(?:data\.)?([a-z]\w*)", lambda found: "--" + found[1].replace("_", "-"), said)
  return re.sub(r"(?<![\w./])base\.start\b", "CHECKPOINT", said).replace("--workdir", "--out")
