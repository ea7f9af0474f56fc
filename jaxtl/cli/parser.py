"""The commands and their options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jaxtl.cli import launch_options as launching
from jaxtl.cli.options import (
  bad_records_option,
  checkpoint_argument,
  class_options,
  column_options,
  command,
  config_options,
  count,
  data_option,
  device_options,
  layer_options,
  local_path,
  number,
  pattern,
  positive,
  preprocessing_options,
  process_options,
  rates,
  run_options,
  seconds,
  session_options,
  share,
  trust_option,
  zero_shot_options,
)

# Repeats the layouts of jaxtl.pretrained, which is imported only when it is needed.
LAYOUTS = (
  "jaxtl",
  "torchvision",
  "timm",
  "hugging_face",
  "dinov2",
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
# Repeats the augmentations of jaxtl.studies.transfer.recipe.
AUGMENTATIONS = ("standard", "none", "flip", "rand_augment")
EXPORTS = ("orbax", "safetensors", "npz", "torchvision", "timm", "hugging_face", "stablehlo", "onnx")


def add_run(commands: Any) -> None:
  run = command(commands, "run", "run.run", "run a study: every arm with every seed, then its report")
  config_options(run)
  run.add_argument(
    "--workdir",
    type=local_path,
    metavar="DIR",
    help="folder of the run; running again continues it (path; default: runs/CONFIG)",
  )
  run_options(run, handed_on=False)
  process_options(run)


def add_check(commands: Any) -> None:
  check = command(
    commands, "check", "run.check", "check a config without running it: parameters, steps, sizes"
  )
  config_options(check)
  check.add_argument(
    "--print-config", action="store_true", help="print the whole config as JSON and stop (flag; default: no)"
  )
  check.add_argument(
    "--compile",
    choices=("first", "all", "none"),
    default="first",
    help="which arms' steps are compiled, for the memory of their activations (text; default: first)",
  )
  device_options(check)


def add_eval(commands: Any) -> None:
  evaluate = command(
    commands,
    "eval",
    "evaluate.evaluate",
    "evaluate a checkpoint on a data set with the same classes, or some of them",
  )
  checkpoint_argument(evaluate)
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
    "--batch-size", type=count, default=128, metavar="N", help="images per batch (integer; default: 128)"
  )
  bad_records_option(evaluate)
  evaluate.add_argument(
    "--out",
    type=local_path,
    metavar="DIR",
    help="also write scores, tables, pictures and a page to a new folder (path; default: no files)",
  )
  evaluate.add_argument(
    "--flatness",
    action="store_true",
    help="measure curvature and sharpness instead, on a subset of the images (flag; default: accuracy)",
  )
  evaluate.add_argument(
    "--num-examples",
    type=count,
    default=None,
    metavar="N",
    help="images of the subset (integer; default: 512 for --flatness, 1000 for --layers)",
  )
  layer_options(evaluate)
  class_options(evaluate)
  zero_shot_options(evaluate)
  preprocessing_options(evaluate, own="the checkpoint's")
  data_option(evaluate)
  column_options(evaluate)
  trust_option(evaluate)
  device_options(evaluate)


def add_predict(commands: Any) -> None:
  predict = command(
    commands, "predict", "predict.predict", "classify images with a checkpoint, and print the probabilities"
  )
  checkpoint_argument(predict)
  predict.add_argument(
    "images",
    nargs="+",
    type=local_path,
    metavar="IMAGE|FOLDER",
    help="image files, and folders of images at any depth (paths)",
  )
  predict.add_argument(
    "--top", type=count, default=5, metavar="K", help="classes per image (integer; default: 5)"
  )
  predict.add_argument(
    "--json", type=local_path, metavar="FILE", help="also write JSON to a new file (path; default: no file)"
  )
  predict.add_argument(
    "--csv",
    type=local_path,
    metavar="FILE",
    help="also write one line per image and class to a new file (path; default: no file)",
  )
  predict.add_argument(
    "--out",
    type=local_path,
    metavar="DIR",
    help="also write a page with the images, JSON and CSV to a new folder (path; default: no files)",
  )
  predict.add_argument(
    "--batch-size",
    type=count,
    default=32,
    metavar="N",
    help="most images per batch (integer; default: 32)",
  )
  bad_records_option(predict)
  preprocessing_options(predict, own="the checkpoint's")
  trust_option(predict)


def add_import(commands: Any) -> None:
  importing = command(
    commands,
    "import",
    "weights.import_weights",
    "import pre-trained weights as a checkpoint that every study can start from",
  )
  importing.add_argument(
    "file",
    type=local_path,
    metavar="FILE",
    help=".safetensors, .npz, .pth, or a folder that holds one (path)",
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
    "--out", type=local_path, metavar="DIR", help="folder that is made (path; default: runs/import/MODEL)"
  )
  importing.add_argument(
    "--classes",
    type=local_path,
    metavar="FILE",
    help="JSON list of class names in the order of the outputs (path; default: ImageNet's for 1,000)",
  )
  importing.add_argument(
    "--allow",
    type=pattern,
    action="append",
    default=[],
    metavar="REGEX",
    help="our paths that may be missing, keys of the file that may be left over (text; default: none)",
  )
  importing.add_argument(
    "--no-head",
    action="store_true",
    help="leave the classifier out, so that no class names are needed (flag; default: no)",
  )
  importing.add_argument(
    "--prefix",
    metavar="TEXT",
    help="prefix of the tensors' names, such as teacher.backbone.; tensors without it are left out "
    "(text; default: what fits the layout)",
  )
  importing.add_argument(
    "--verify",
    action="store_true",
    help="run 8 inputs through the original in its library, too (flag; default: no)",
  )
  preprocessing_options(importing, own="the file's, or the layout's")
  device_options(importing)


def add_finetune(commands: Any) -> None:
  finetune = command(
    commands,
    "finetune",
    "finetune.finetune",
    "fine-tune weights on a folder of images, and recommend one of them",
  )
  finetune.add_argument(
    "data",
    metavar="DATA",
    help="folder of class folders, or of splits of them; parquet, npz, sheets or tfds:NAME (text)",
  )
  finetune.add_argument(
    "--start",
    type=local_path,
    nargs="+",
    required=True,
    metavar="WEIGHT",
    help="checkpoints, imports, or files of other libraries, which are imported (paths)",
  )
  finetune.add_argument(
    "--out", type=local_path, metavar="DIR", help="folder of the run (path; default: runs/DATA)"
  )
  finetune.add_argument(
    "--probe-only", action="store_true", help="fit a linear probe alone (flag; default: both)"
  )
  length = finetune.add_mutually_exclusive_group()
  length.add_argument(
    "--epochs", type=positive, metavar="N", help="longest fine-tuning in epochs (number; default: 20)"
  )
  length.add_argument("--steps", type=count, metavar="N", help="the same in steps (integer; default: epochs)")
  finetune.add_argument(
    "--rates",
    type=rates,
    metavar="R,R",
    help="peak rates to choose from on held-out images (numbers; default: 1e-4,3e-4,1e-3)",
  )
  finetune.add_argument(
    "--augment",
    choices=AUGMENTATIONS,
    default="standard",
    help=f"{', '.join(AUGMENTATIONS)}: standard crops and flips, rand_augment does more (text; default: "
    "standard)",
  )
  finetune.add_argument(
    "--val",
    metavar="SPLIT|SHARE",
    help="the images that choose rate and step: a split, or a share of the training images (text or number; "
    "default: an unused validation split, else 0.15)",
  )
  finetune.add_argument(
    "--image-size", type=count, metavar="N", help="side in pixels (integer; default: the weight's)"
  )
  finetune.add_argument(
    "--seeds",
    dest="num_seeds",
    type=count,
    default=1,
    metavar="N",
    help="number of seeds (integer; default: 1)",
  )
  finetune.add_argument(
    "--batch-size", type=count, default=32, metavar="N", help="images per batch (integer; default: 32)"
  )
  bad_records_option(finetune)
  finetune.add_argument(
    "--as",
    dest="model",
    metavar="MODEL",
    help="architecture of an imported file, e.g. resnet50 (text; default: the one that its name contains)",
  )
  finetune.add_argument(
    "--layout", choices=LAYOUTS, help="whose names an imported file has (text; default: the first that fits)"
  )
  data_option(finetune)
  column_options(finetune)
  session_options(finetune)
  process_options(finetune)


def _scoring_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the commands that score weights on the training images of a data set."""
  parser.add_argument(
    "--scores",
    nargs="+",
    metavar="NAME",
    help="ridge, h_score, logme, lfc, gbc, knn_1, knn_5, sfda, leep, nce, nc1, effective_rank, "
    "participation_ratio, intrinsic_dimension; probe, n_leep, transrate, parc, plain_h_score; all (text; "
    "default: the first 14)",
  )
  parser.add_argument(
    "--by",
    default="ridge",
    metavar="NAME",
    help="the score that orders the weights, as ridge, logme, knn_1 or probe (text; default: ridge)",
  )
  parser.add_argument("--split", metavar="NAME", help="split to score on (text; default: the training split)")
  parser.add_argument(
    "--max-examples",
    type=count,
    default=5000,
    metavar="N",
    help="most images, drawn in the classes' shares, the same for every weight (integer; default: 5000)",
  )
  parser.add_argument(
    "--seed",
    type=number,
    default=0,
    metavar="N",
    help="of the draw, the folds and resamples (integer; default: 0)",
  )
  parser.add_argument(
    "--source-accuracy",
    type=local_path,
    metavar="FILE",
    help="CSV with the columns model and top1 in percent, for weights whose run did not measure it (path; "
    "default: none)",
  )
  parser.add_argument(
    "--batch-size", type=count, default=64, metavar="N", help="images per batch (integer; default: 64)"
  )
  bad_records_option(parser)
  parser.add_argument(
    "--as",
    dest="model",
    metavar="MODEL",
    help="architecture of a file of another library (text; default: the one that its name contains)",
  )
  parser.add_argument(
    "--layout", choices=LAYOUTS, help="whose names such a file has (text; default: the first that fits)"
  )
  preprocessing_options(parser, own="each weight's")
  data_option(parser)
  column_options(parser)
  trust_option(parser)
  device_options(parser)


def add_rank(commands: Any) -> None:
  rank = command(
    commands,
    "rank",
    "rank.rank",
    "order pre-trained weights for a data set, by one pass over its images each",
  )
  rank.add_argument(
    "weights",
    type=local_path,
    nargs="+",
    metavar="WEIGHT",
    help="checkpoints, imports, or files of other libraries (paths)",
  )
  rank.add_argument(
    "--data",
    required=True,
    metavar="SOURCE",
    help="folder of class folders, or of splits of them; parquet, sheets, npz, tfds:NAME or a built-in "
    "(text)",
  )
  rank.add_argument(
    "--out",
    type=local_path,
    metavar="DIR",
    help="also write the rows and a page there; the same command resumes (path; default: no files)",
  )
  rank.add_argument(
    "--controls",
    action="store_true",
    help="also score an untrained network of each architecture, and pixels (flag; default: no)",
  )
  rank.add_argument(
    "--permutations",
    type=number,
    default=0,
    metavar="N",
    help="of the labels, under which each score is computed again (integer; default: 0)",
  )
  rank.add_argument(
    "--resamples",
    type=count,
    default=1000,
    metavar="N",
    help="of the images, for intervals and how often each weight is first (integer; default: 1000)",
  )
  rank.add_argument(
    "--finetune-budget",
    metavar="BUDGET",
    help="fine-tune the first weights with what is left of this, as 900steps of training or 30min of the "
    "whole command (text; default: no fine-tuning)",
  )
  rank.add_argument(
    "--first", type=count, metavar="N", help="weights that a budget fine-tunes (integer; default: 3)"
  )
  _scoring_options(rank)


def add_card(commands: Any) -> None:
  card = command(
    commands,
    "card",
    "card.card",
    "write the card of a weight: source, numerics, curvature, and its scores on some data sets",
  )
  card.add_argument(
    "weight",
    type=local_path,
    metavar="WEIGHT",
    help="a checkpoint, an import, or a file of another library (path)",
  )
  card.add_argument(
    "--data",
    required=True,
    nargs="+",
    metavar="SOURCE",
    help="data sets whose training images are scored, as for jaxtl rank (texts)",
  )
  card.add_argument(
    "--out",
    type=local_path,
    metavar="DIR",
    help="also write card.json, card.md and a page there; the same command resumes (path; default: no files)",
  )
  card.add_argument("--license", metavar="TEXT", help="licence of the weight (text; default: not stated)")
  card.add_argument(
    "--flatness",
    type=local_path,
    action="append",
    default=[],
    metavar="RUN",
    help="folder of a flatness study, or of jaxtl eval --flatness --out, of these weights (path; default: "
    "what the weight's own run has measured)",
  )
  card.add_argument(
    "--permutations",
    type=number,
    default=20,
    metavar="N",
    help="of the labels, under which each score is computed again (integer; default: 20)",
  )
  card.add_argument(
    "--no-controls",
    dest="controls",
    action="store_false",
    help="do not score an untrained network and pixels (flag; default: score them)",
  )
  _scoring_options(card)


def add_export(commands: Any) -> None:
  export = command(commands, "export", "weights.export", "write a checkpoint's weights in another format")
  checkpoint_argument(export)
  export.add_argument(
    "out", type=local_path, metavar="OUT", help="folder that is made (path; must not exist)"
  )
  export.add_argument(
    "--format",
    choices=EXPORTS,
    default="safetensors",
    help=f"what to write: {', '.join(EXPORTS)} (text; default: safetensors)",
  )
  export.add_argument(
    "--card",
    type=local_path,
    metavar="FILE",
    help="card.json of these weights, from jaxtl card, to add to the model card of hugging_face (path; "
    "default: none)",
  )
  trust_option(export)
  device_options(export)


def add_models(commands: Any) -> None:
  models = command(
    commands,
    "models",
    "models.models",
    "list the architectures: parameters with 1,000 classes, multiply-accumulates (MACs), layouts of weights",
  )
  models.add_argument(
    "pattern",
    nargs="?",
    metavar="PATTERN",
    help="a part of the name, or a pattern like 'resnet*' (text; default: all)",
  )
  models.add_argument(
    "--json", type=local_path, metavar="FILE", help="also write the rows to a new file (path; default: none)"
  )


def add_new(commands: Any) -> None:
  new = command(commands, "new", "new.new", "write a commented starting config of a study")
  new.add_argument(
    "study", metavar="STUDY", help="which study, such as pretrain; an unknown name lists them (text)"
  )
  new.add_argument(
    "file", nargs="?", type=local_path, metavar="FILE", help="the file to write (path; default: STUDY.py)"
  )
  new.add_argument(
    "--data",
    metavar="SOURCE",
    help="data set of the config: folder, parquet, sheets, npz, tfds:NAME or a built-in (text; default: a "
    "built-in)",
  )


def add_patch(commands: Any) -> None:
  patch = command(
    commands,
    "patch",
    "patch.patch",
    "find the point between two weights that is best for an old and a new task together",
  )
  for name, when in (("before", "before"), ("after", "after")):
    patch.add_argument(
      name,
      type=local_path,
      metavar=name.upper(),
      help=f"the weights {when} fine-tuning, a checkpoint's folder (path)",
    )
  for name, metavar, task in (("supported", "BEFORE", "old"), ("patching", "AFTER", "new")):
    patch.add_argument(
      f"--{name}",
      required=True,
      metavar="SOURCE",
      help=f"images of the {task} task, with the classes of {metavar}: folder, parquet, sheets, npz or a "
      "built-in (text)",
    )
    patch.add_argument(
      f"--{name}-split", metavar="NAME", help="its split (text; default: the only one, test or val)"
    )
  patch.add_argument(
    "--share",
    type=share,
    default=0.5,
    metavar="F",
    help="share of the images that choose the coefficient; the others are scored (number between 0 and 1; "
    "default: 0.5)",
  )
  patch.add_argument(
    "--out",
    type=local_path,
    metavar="DIR",
    help="also write a page and the patched checkpoints to a new folder (path; default: no files)",
  )
  patch.add_argument(
    "--batch-size", type=count, default=128, metavar="N", help="images per batch (integer; default: 128)"
  )
  preprocessing_options(patch, own="the checkpoint's")
  data_option(patch)
  trust_option(patch)
  device_options(patch)


def add_report(commands: Any) -> None:
  report = command(
    commands, "report", "report.report", "make the report of a run: Markdown, CSV, LaTeX and one HTML page"
  )
  report.add_argument("workdir", type=local_path, metavar="WORKDIR", help="folder of the run (path)")
  report.add_argument(
    "--out", type=local_path, metavar="DIR", help="where to write (path; default: WORKDIR/report)"
  )
  data_option(report)
  trust_option(report)


def add_tensorboard(commands: Any) -> None:
  parser = command(
    commands,
    "tensorboard",
    "tensorboard.tensorboard",
    "open the curves of a run, finished or not, in TensorBoard (pip install 'jaxtl[tensorboard]')",
  )
  parser.add_argument(
    "run", type=local_path, metavar="RUN", help="folder of a run, or one of several runs (path)"
  )
  parser.add_argument(
    "--port",
    type=count,
    metavar="N",
    help="where the browser finds it (integer; default: 6006, or the next free)",
  )
  parser.add_argument(
    "--host",
    metavar="HOST",
    help="address to listen on; 0.0.0.0 is the whole network (text; default: localhost)",
  )


def add_data(commands: Any) -> None:
  data = commands.add_parser("data", help="look at a data set", description="Look at a data set.")
  data_commands = data.add_subparsers(required=True, metavar="COMMAND")
  data_check = command(
    data_commands,
    "check",
    "data.data_check",
    "classes, counts, sizes, unreadable files, overlap; and two pictures",
  )
  data_check.add_argument(
    "source",
    metavar="SOURCE",
    help="folder, parquet, sheets, npz, tfds:NAME, glyphs, digits, photo_patches or scene_patches (text)",
  )
  data_check.add_argument(
    "--out",
    type=local_path,
    default=Path("data_check"),
    metavar="DIR",
    help="for the pictures (path; default: data_check)",
  )
  data_option(data_check)
  column_options(data_check)


def add_ckpt(commands: Any) -> None:
  ckpt = commands.add_parser("ckpt", help="look at checkpoints", description="Look at checkpoints.")
  verbs = ckpt.add_subparsers(required=True, metavar="COMMAND")
  inspect = command(
    verbs,
    "inspect",
    "checkpoints.ckpt_inspect",
    "what a checkpoint holds, by its manifest: model, classes, arrays",
  )
  checkpoint_argument(inspect)
  verify = command(
    verbs,
    "verify",
    "checkpoints.ckpt_verify",
    "read every step whole and compare each file and array with its digest",
  )
  verify.add_argument(
    "path",
    type=local_path,
    metavar="PATH",
    help="one step, or a folder that contains some at any depth (path)",
  )
  diff = command(
    verbs, "diff", "checkpoints.ckpt_diff", "how two checkpoints differ: config, and each array by its norm"
  )
  checkpoint_argument(diff)
  diff.add_argument(
    "other", type=local_path, metavar="OTHER", help="the second checkpoint, like the first (path)"
  )


def add_verify_resume(commands: Any) -> None:
  resume = command(
    commands,
    "verify-resume",
    "run.verify_resume",
    "train a config's network twice, once killed and started again, and compare every array bit for bit",
  )
  config_options(resume)
  resume.add_argument("--arm", metavar="NAME", help="which arm (text; default: the first that trains)")
  resume.add_argument(
    "--seed", type=number, metavar="N", help="its seed (integer; default: the config's first)"
  )
  resume.add_argument(
    "--steps", type=count, default=8, metavar="N", help="where both runs end (integer; default: 8)"
  )
  resume.add_argument(
    "--kill-after",
    type=count,
    default=5,
    metavar="N",
    help="step after which one is killed; checkpoints are every two steps (integer; default: 5)",
  )
  trust_option(resume)
  device_options(resume)


def add_doctor(commands: Any) -> None:
  doctor = command(
    commands,
    "doctor",
    "run.doctor",
    "what a run would find here, and why; add up 1 over all devices of all processes",
  )
  doctor.add_argument(
    "config",
    nargs="?",
    type=local_path,
    metavar="CONFIG",
    help="also compare this config and its data over the processes (path; default: neither)",
  )
  data_option(doctor)
  doctor.add_argument(
    "--timeout",
    type=seconds,
    default=60.0,
    metavar="S",
    help="how long the sum may take (seconds; default: 60)",
  )
  device_options(doctor)
  process_options(doctor)


COMMANDS = (
  add_finetune,
  add_run,
  launching.add,
  add_check,
  add_eval,
  add_predict,
  add_import,
  add_rank,
  add_card,
  add_export,
  add_models,
  add_new,
  add_patch,
  add_report,
  add_tensorboard,
  add_data,
  add_ckpt,
  add_verify_resume,
  add_doctor,
)
