"""The card of a weight: its JSON, its Markdown, its page, and what it refuses to be the card of."""

import json

import pytest

from jaxtl.errors import InputError
from jaxtl.selection import card as cards
from jaxtl.selection import card_page
from tests.selection.rows import TARGET, row, score


def made(*, by="ridge", controls=(), **changes):
  about = row("a", hits=160, source_accuracy=0.7) | dict(
    origin=dict(file="a.npz", layout="timm", sha256="5" * 64)
  )
  scores = dict(
    ridge=score(0.8, 0.03) | dict(null_mean=0.25, null_sd=0.02, z=27.5),
    leep=dict(left_out="no | head"),
    nc1=score(1.5),
  )
  target = TARGET | row("a", hits=160) | dict(scores=scores, by=by, controls=list(controls)) | changes
  curvature = [
    dict(loss="cross_entropy", lambda_max=12.5, trace=100.0, num_examples=512, measured_by="runs/f")
  ]
  return cards.make_card(about, [target], license="Apache-2.0", curvature=curvature)


def test_the_files_hold_the_same_numbers():
  card = made()
  files = card_page.card_files(card)
  assert set(files) == {"card.json", "card.md", "index.html"}
  assert json.loads(files["card.json"]) == json.loads(json.dumps(card))
  assert not {"path", "given", "seen_images"} & set(card)
  assert "terms" not in card["targets"][0]
  for text in (files["card.md"], files["index.html"], card_page.card_terminal(card)):
    for said in ("Apache-2.0", "5" * 64, "12.5", "80.0", "3.0", "25.0", "27.5", "70.0 %"):
      assert said in text
  assert "<script" not in files["index.html"]
  # A stroke in a reason does not break the table.
  assert r"no \| head" in files["card.md"]


def test_the_lead_says_where_it_stands():
  [said] = cards.lead(made())
  assert said == "On photos it reaches ridge 80.0 ± 3.0 %, 25.0 under permuted labels, in 1.00 ms per image."
  [said] = cards.lead(made(by="leep"))
  assert said == "On photos LEEP is left out: no | head."
  control = dict(row("x", hits=170), control="8 x 8 pixels")
  said = cards.lead(made(controls=[control], seen_images=9))
  assert "It was trained on 9 of the 200 images of photos, which flatters its scores there." in said
  assert "On photos the control 8 x 8 pixels is as good." in said


def test_what_is_not_known_is_said():
  about = row("a", hits=160) | dict(origin=dict(step=12), head_classes=0, multiply_accumulates=None)
  card = cards.make_card(about, [], license=None)
  cells = {row[0]: row[1] for row in cards.identity_grid(card).rows}
  assert cells["licence"] == "not stated"
  assert cells["source"] == "a run of jaxtl, step 12"
  assert cells["classes of its own head"] == "no head"
  assert cells["accuracy on the source data"] == "not known"
  assert "No measurement of these weights is known" in card_page.card_html(
    card | dict(targets=made()["targets"])
  )


def test_a_card_is_of_its_own_weights_alone():
  text = json.dumps(made())
  assert cards.read_card(text, digest="1" * 16, where="card.json")["license"] == "Apache-2.0"
  with pytest.raises(InputError, match="is the card of other weights"):
    cards.read_card(text, digest="2" * 16, where="card.json")
  with pytest.raises(InputError, match="has the format 9"):
    cards.read_card(json.dumps(made() | dict(format=9)), digest="1" * 16, where="card.json")
  for text in ("", "[]", "{}", "7", '{"digest": 1}', "[" * 10**5):
    with pytest.raises(InputError, match=r"card\.json is not a card"):
      cards.read_card(text, digest="1" * 16, where="card.json")
