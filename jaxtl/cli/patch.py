"""`jaxtl patch`: finds the point between two weights that is best for two tasks together."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl.checkpoints import checkpoint
from jaxtl.cli.options import preprocessing_choice
from jaxtl.cli.output import show
from jaxtl.cli.runtime import make_runtime
from jaxtl.config import Spec
from jaxtl.errors import ConfigError, DataError, InputError
from jaxtl.host.processes import is_first_process
from jaxtl.measure import prepared
from jaxtl.pretrained.exporting import whole_folder
from jaxtl.report import page
from jaxtl.report.grid import Grid
from jaxtl.studies.patching import two_weights, two_weights_figures
from jaxtl.studies.patching.two_weights import Patched
from jaxtl.studies.transfer import preprocessing
from jaxtl.text_table import aligned_lines
from jaxtl.train.inputs import Data

_HEADER = ("", "alpha", "supported loss", "supported top1", "patching loss", "patching top1")


def patch(options: argparse.Namespace) -> None:
  """Runs `jaxtl patch`: prints the coefficient and the scores; with --out also writes a page and weights."""
  if options.out and options.out.exists():
    raise InputError(f"{options.out} exists already; give --out a folder that does not")
  if checkpoint.find(options.before) == checkpoint.find(options.after):
    raise ConfigError(
      f"BEFORE and AFTER are both {options.before}; give the weights before and after fine-tuning"
    )
  splits = (options.supported_split, options.patching_split)
  if options.supported == options.patching and splits[0] == splits[1]:
    raise DataError(
      f"--supported and --patching are both {options.supported}; give the data of the old and of the new task"
    )
  runtime = make_runtime(options)
  before, after = checkpoint.load(options.before), checkpoint.load(options.after)
  supported = _data(before, options.supported, splits[0], options)
  patching = _data(after, options.patching, splits[1], options)
  if preprocessing.differs(patching, before):
    raise ConfigError(
      f"{after.path} normalises images differently from {before.path}, so their weights do not belong to one "
      "network; give --mean and --std if one of them is wrong"
    )
  found = two_weights.patch(
    before, after, supported=supported, patching=patching, runtime=runtime, share=options.share
  )
  runtime.progress.close()
  if not is_first_process():
    return
  show(terminal_table(found))
  if options.out:
    write(found, options.out, names=(options.supported, options.patching))
    show(f"report: {options.out / 'index.html'}")


def _data(weights: checkpoint.Weights, name: str, split: str | None, options: argparse.Namespace) -> Data:
  """Returns the images of a task, prepared as the weights with its head expect."""
  plan = prepared.prepare(weights, preprocessing_choice(options), trust=options.trust)
  chosen = data_lib.choose_split(data_lib.open_source(name, data_dir=options.data_dir), split)
  source = Spec(".data.from_name", "make", {"name": name, "split": chosen}, data_lib.from_name)
  return Data(source, plan.transforms, batch_size=options.batch_size)


def terminal_table(found: Patched) -> str:
  """Formats one aligned line for each of the three weights, and how the coefficient was found."""
  lines = aligned_lines([_HEADER, *_rows(found)], right=range(len(_HEADER)))
  return "\n".join([*lines, *_remarks(found)])


def _rows(found: Patched) -> list[tuple[str, ...]]:
  """Returns a row for each of the three weights; the patched ones may be an end."""
  return [
    (name, f"{alpha:.3f}", *(text for task in two_weights.TASKS for text in _texts(found, alpha, task)))
    for name, alpha in (("before", 0.0), ("patched", found.alpha), ("after", 1.0))
  ]


def _texts(found: Patched, alpha: float, task: str) -> tuple[str, str]:
  scores = found.scores[alpha][task]
  return f"{scores['loss']:.4f}", f"{scores['top1']:.4f}"


def _remarks(found: Patched) -> list[str]:
  """Returns sentences on the search and on the images."""
  search = found.search
  chosen, scored = (
    " + ".join(f"{count:,}" for count in counts.values()) for counts in (found.num_choosing, found.num_scored)
  )
  remarks = [
    f"{search.num_evaluations} evaluations on {chosen} images chose the coefficient; the scores are those of "
    f"the other {scored} images."
  ]
  if search.boundary is not None:
    remarks.append(f"The best point is an end, alpha {search.boundary}: a mixture is worse on these images.")
  if search.fallback:
    remarks.append("The sum of losses has several valleys, so a grid was evaluated, too.")
  elif search.fit_suspect:
    remarks.append("The search ended before it could rule out a lower point of the grid of 0.05.")
  return remarks


def write(found: Patched, out: Path, *, names: tuple[str, str]) -> None:
  """Writes the page, its numbers and figure, and the patched weights with each head: all files or none."""
  figure = two_weights_figures.losses_figure(found)
  with whole_folder(out) as folder:
    (folder / "index.html").write_text(_page(found, figure, names), encoding="utf-8")
    (folder / f"{figure.name}.png").write_bytes(figure.png)
    (folder / "scores.json").write_text(json.dumps(_numbers(found, names), indent=1) + "\n")
    for task, weights in found.weights.items():
      checkpoint.save_weights(weights, folder / task)


def _numbers(found: Patched, names: tuple[str, str]) -> dict[str, Any]:
  return {
    **found.weights["supported"].config["patched"],
    "data": dict(zip(two_weights.TASKS, names)),
    "num_evaluations": found.search.num_evaluations,
    "num_choosing": found.num_choosing,
    "num_scored": found.num_scored,
    "scores": [{"alpha": alpha, **scores} for alpha, scores in found.scores.items()],
    "curve": [
      {"alpha": alpha, "objective": found.objective[alpha], **scores} for alpha, scores in found.curve.items()
    ],
    "transforms": config_lib.plain(found.weights["supported"].config["transforms"]),
  }


def _page(found: Patched, figure: Any, names: tuple[str, str]) -> str:
  title = f"Patching between {names[0]} and {names[1]}"
  about = found.weights["supported"].config["patched"]
  lead = [f"The best coefficient for both tasks is {found.alpha:.3f}.", *_remarks(found)]
  facts = {"before": about["before"], "after": about["after"]}
  note = "Loss is the cross-entropy in nats; top1 is the share of images whose true class is first."
  parts = [
    page.header("Patching", title, lead, facts),
    page.text_table(Grid("Scores", list(_HEADER), [list(row) for row in _rows(found)], note)),
    page.figure(figure),
    "<footer>Made by <code>jaxtl patch</code>. The folders <code>supported</code> and <code>patching</code> "
    "are checkpoints of the patched backbone with the head of each task.</footer>",
  ]
  return page.document(title, parts)
