"""`jaxtl import` and `jaxtl export`: exchange weights with other libraries."""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxtl import config as config_lib
from jaxtl.checkpoints import checkpoint
from jaxtl.cli.options import preprocessing_choice
from jaxtl.cli.output import show
from jaxtl.cli.runtime import make_runtime
from jaxtl.errors import InputError


def import_weights(options: argparse.Namespace) -> None:
  """Runs `jaxtl import`: converts another library's weights into a checkpoint."""
  from jaxtl import pretrained
  from jaxtl.pretrained import importing, mapping_table, verify

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
    preprocessing=preprocessing_choice(options),
    head=not options.no_head,
    prefix=options.prefix,
  )
  show(mapping_table.table(imported), end="")
  if options.verify:
    error = verify.verify(imported, library=layout.library)
    show(f"verified with {layout.library}: 8 inputs, largest difference {error:.1e} of the largest output")
  checkpoint.save_weights(imported.weights, out)
  show(f"wrote {out}")


def export(options: argparse.Namespace) -> None:
  """Runs `jaxtl export`: writes weights, class list and preprocessing in a format readable without jaxtl."""
  from jaxtl.pretrained import exporting

  if options.card is not None and options.format != "hugging_face":
    raise InputError(f"--card is for --format hugging_face, not {options.format}; leave it out")
  weights = checkpoint.load(options.checkpoint)
  make_runtime(options)
  section, files = _card(options.card, weights) if options.card is not None else ("", None)
  exporting.export(
    weights, options.out, format=options.format, trust=options.trust, section=section, files=files
  )
  show(f"wrote {options.out} from {weights.path}")


def _card(path: Path, weights: checkpoint.Weights) -> tuple[str, dict[str, str]]:
  """Returns a card as a section of the model card, and as the file that is exported with it.

  Raises:
    InputError: the file does not exist, is not a card, or is that of other weights.
  """
  from jaxtl.measure.source_record import weights_digest
  from jaxtl.selection import card as cards

  if not path.is_file():
    raise InputError(f"no card at {path}; expected a card.json that jaxtl card has written")
  text = path.read_text(encoding="utf-8", errors="replace")
  card = cards.read_card(text, digest=weights_digest(weights), where=str(path))
  return cards.card_markdown(card, level=2), {"card.json": text}
