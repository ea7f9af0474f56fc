import json
import re
from html.parser import HTMLParser

import pytest

from jaxtl.errors import InputError
from jaxtl.host import sealed_json
from jaxtl.report import page
from jaxtl.report import write as report
from jaxtl.report.grid import Grid
from jaxtl.studies.flatness import report as flatness_report
from jaxtl.studies.layers import diagnosis_figures
from jaxtl.studies.pretrain import report as pretrain_report
from jaxtl.studies.transfer import report as transfer_report
from tests.report import example_study
from tests.studies.layers.test_diagnosis_tables import ROWS

pytestmark = pytest.mark.slow

FINE_TUNE = ("fine_tune",)
HOSTILE = '<script>alert("x")</script>|$\\frac{_%'


class Page(HTMLParser):
  """Text by tag, attributes, and whether every element is closed."""

  VOID = ("meta", "img", "wbr", "use", "path", "br")

  def __init__(self, text):
    super().__init__()
    self.open, self.attributes, self.tags, self.ids = [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self.attributes += attributes
    self.ids += [value for name, value in attributes if name == "id"]
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.handle_starttag(tag, attributes)
    if tag not in self.VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    if tag not in self.VOID:
      assert self.open.pop() == tag


def write(workdir, out=None, **keywords):
  example_study.write(workdir, **keywords)
  return report.write(workdir, out or workdir / "report")


@pytest.fixture
def no_figures(monkeypatch):
  """Drawing takes most of the time of a report; tests of its text go without."""
  for module in (pretrain_report, transfer_report, flatness_report, diagnosis_figures):
    monkeypatch.setattr(module, "make_figures", lambda results: [])


@pytest.fixture(scope="module")
def full(tmp_path_factory):
  return write(tmp_path_factory.mktemp("study"), source=".data.digits")


def test_all_files_are_there(full):
  names = {path.name for path in full.parent.iterdir()}
  figures = (
    "transfer_fine_tune",
    "transfer_linear_probe",
    "training",
    "flatness_transfer",
    "accuracy_transfer",
    "curvature_training",
  )
  expected = {f"{name}.{ending}" for name in figures for ending in ("svg", "png")}
  expected |= {"index.html", "report.md", "table.csv", "table.tex", "training_images.png"}
  assert names == expected


def test_the_page_is_small_and_loads_nothing(full):
  text = full.read_text(encoding="utf-8")
  assert len(text.encode()) < 3_000_000
  page = Page(text)
  assert page.open == []
  for name, value in page.attributes:
    if name in ("src", "href", "xlink:href"):
      assert value.startswith(("#", "data:image/png;base64,")), value
  assert not {"script", "link", "iframe", "object"} & set(page.tags)
  assert "@import" not in text
  assert not re.search(r"url\((?!#)", text)


def test_links_lead_somewhere_and_names_are_unique(full):
  page = Page(full.read_text(encoding="utf-8"))
  links = {value[1:] for name, value in page.attributes if name.endswith("href") and value.startswith("#")}
  assert links <= set(page.ids)
  assert len(page.ids) == len(set(page.ids))


def test_the_page_is_for_light_and_dark(full):
  text = full.read_text(encoding="utf-8")
  assert "prefers-color-scheme:dark" in text
  for color in ("#0072b2", "#1d2329"):  # of the figures: by variable only
    assert f"fill: {color}" not in text
    assert f"stroke: {color}" not in text


def test_the_same_rows_give_the_same_bytes(tmp_path):
  example_study.write(
    tmp_path, arms=("cross_entropy", "sam"), seeds=(0, 1), targets=("digits",), protocols=FINE_TUNE
  )
  first = report.write(tmp_path, tmp_path / "a").parent
  second = report.write(tmp_path, tmp_path / "b").parent
  names = sorted(path.name for path in first.iterdir())
  assert names == sorted(path.name for path in second.iterdir())
  for name in names:
    assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_hostile_names_are_only_text(tmp_path):
  page = write(
    tmp_path,
    arms=("cross_entropy", "a&b_$x$"),
    seeds=(0, 1),
    targets=("digits", HOSTILE),
    protocols=FINE_TUNE,
    title=HOSTILE,
    notes=(HOSTILE,),
  )
  text = page.read_text(encoding="utf-8")
  assert "<script" not in text
  assert Page(text).open == []
  assert "&lt;script&gt;" in text
  markdown = (page.parent / "report.md").read_text(encoding="utf-8")
  assert "<script" not in markdown
  header, rule, *rows = markdown.split("## Fine-tuning\n\n")[1].split("\n\n")[0].splitlines()
  assert {re.sub(r"\\.", "", line).count("|") for line in (header, rule, *rows)} == {rule.count("|")}
  assert "<script" not in (page.parent / "transfer_fine_tune.svg").read_text(encoding="utf-8")


def test_an_unfinished_study_says_what_is_missing(tmp_path, no_figures):
  page = write(tmp_path, unfinished=[("sam", 2), ("from_scratch", 2)], targets=("digits", "pets"))
  text = page.read_text(encoding="utf-8")
  assert "16 of 18 cells" in text
  assert "The training data could not be opened" in text
  assert text.count("Not opened: data; evaluation.test;") == 1
  assert "missing: sam/2, from_scratch/2" in text
  assert "unfinished, at step 4000" in text
  assert "not started" in text
  assert ">n = 2<" in text


def test_nothing_finished_still_makes_a_page(tmp_path):
  cells = [("cross_entropy", 0), ("sam", 0)]
  page = write(tmp_path, arms=("cross_entropy", "sam"), seeds=(0,), unfinished=cells)
  assert "no numbers yet" in page.read_text(encoding="utf-8")
  assert (page.parent / "training.svg").exists()


def test_one_seed_shows_no_spread(tmp_path, no_figures):
  page = write(tmp_path, arms=("cross_entropy", "sam"), seeds=(0,), targets=("digits",))
  text = page.read_text(encoding="utf-8")
  assert 'class="spread"' not in text
  assert "One seed: the spread is unknown." in text


def test_a_protocol_that_was_not_run_is_left_out(tmp_path):
  page = write(
    tmp_path, arms=("cross_entropy",), protocols=("linear_probe",), seeds=(0,), targets=("digits",)
  )
  assert "Fine-tuning" not in page.read_text(encoding="utf-8")
  assert "by linear probe" in page.read_text(encoding="utf-8")
  assert not (page.parent / "transfer_fine_tune.svg").exists()


def test_a_transfer_study_has_no_columns_of_pretraining(tmp_path, no_figures):
  page = write(tmp_path, kind="transfer", arms=("resnet", "vit"), seeds=(0, 1), targets=("digits", "pets"))
  text = page.read_text(encoding="utf-8")
  assert "Best mean accuracy over 2 targets by fine-tuning" in text
  assert "λ<sub>max</sub></th>" not in text
  assert ">Pre-training<" not in text


def test_a_flatness_study_is_about_curvature(tmp_path):
  page = write(tmp_path, kind="flatness", arms=("resnet", "vit"), seeds=(0, 1))
  text = page.read_text(encoding="utf-8")
  assert "Flattest (smallest λ<sub>max</sub>): vit" in text
  assert "Transfer accuracy" not in text


def test_a_page_of_one_checkpoint_has_nothing_to_compare_and_no_training(tmp_path, no_figures):
  page = write(tmp_path, kind="flatness", arms=("checkpoint",), seeds=(0,), source=".data.digits")
  for text in (page.read_text(encoding="utf-8"), (page.parent / "report.md").read_text(encoding="utf-8")):
    assert "of the cross-entropy, checkpoint: " in text
    assert "compare" not in text.split("Flattest")[0]
    assert "Flattest" not in text
    assert "512 of 999" in text
    assert "Every number" in text
    for absent in ("Training images", "difference to the base", "peak rate", ">targets<", "data wait"):
      assert absent not in text
  assert not (page.parent / "training_images.png").exists()


def test_a_page_of_layers_has_their_table_among_the_results(tmp_path, no_figures):
  example_study.write(tmp_path, kind="flatness", arms=("checkpoint",), seeds=(0,), source=".data.digits")
  config = json.loads((tmp_path / "config.json").read_text()) | {"study": ".studies.layers.diagnosis.rows"}
  (tmp_path / "config.json").write_text(json.dumps(config))
  rows = [json.dumps(row | {"arm": "checkpoint"}) for row in ROWS]
  (tmp_path / "checkpoint" / "0" / "rows.jsonl").write_text("\n".join(rows) + "\n")
  page = report.write(tmp_path, tmp_path / "report")
  text = page.read_text(encoding="utf-8")
  results, behind = text.split('id="behind"')
  assert results.index('id="results"') < results.index("Layers, checkpoint")
  assert "Layers, checkpoint" not in behind
  assert "Every number" not in text
  assert (page.parent / "report.md").read_text(encoding="utf-8").count("## Layers, checkpoint") == 1
  assert Page(text).open == []


def test_every_number_has_its_seeds_beside_it(full):
  rows = [
    json.loads(line) for line in (full.parent.parent / "sam" / "1" / "rows.jsonl").read_text().splitlines()
  ]
  value = next(r["accuracy"] for r in rows if r.get("target") == "pets" and r["protocol"] == "fine_tune")
  title = re.search(r'title="(sam, accuracy on pets, fine-tuning: [^"]*)"', full.read_text(encoding="utf-8"))
  assert f"seed 1: {value:.6g}" in title[1]


def foreign(workdir, rows):
  """A study whose module is not in jaxtl: two arms, one seed, and rows of its own."""
  config = {"study": "mylab.study.rows", "base": {}, "arms": {"a": {}, "b": {}}, "seeds": [0]}
  workdir.mkdir()
  (workdir / "config.json").write_text(json.dumps(config))
  for arm, own in rows.items():
    (workdir / arm / "0").mkdir(parents=True)
    found = [{"arm": arm, "seed": 0, "session": 0} | row for row in own]
    (workdir / arm / "0" / "rows.jsonl").write_text(sealed_json.lines_text(found))
  return report.write(workdir, workdir / "report")


def test_a_study_from_outside_has_a_table_of_its_numbers(tmp_path):
  rows = {
    "a": [{"accuracy": 0.5, "name": "x", "good": True}, {"accuracy": 0.7}],
    "b": [{"accuracy": 0.25, "seconds": 1234.5, "loss": float("nan")}],
  }
  out = foreign(tmp_path / "run", rows)
  text = (out.parent / "report.md").read_text()
  assert "No cell" not in text
  assert (
    "2 of 2 cells of this study are finished. The study does not name its deciding measure "
    "(accuracy, seconds), so no arm is called the best."
  ) in text
  assert "| arm | accuracy | seconds |" in text
  assert "| a | 0.600 | - |" in text
  assert "| b | 0.250 | 1234 |" in text or "| b | 0.250 | 1235 |" in text
  assert "the mean over those that have it" in text
  assert "0.600" in out.read_text()
  assert r"\begin{tabular}" in (out.parent / "table.tex").read_text()


@pytest.mark.parametrize(
  ("rows", "said"),
  [
    ({"a": [], "b": []}, "2 of 2 cells of this study are finished; their rows have no numbers."),
    ({"a": [{"text": "x"}]}, "1 of 2 cells of this study are finished; their rows have no numbers."),
    (
      {"a": [{"x": 1}]},
      "1 of 2 cells of this study are finished. The study does not name its deciding measure",
    ),
    ({}, "No cell of this study is finished"),
  ],
)
def test_a_study_from_outside_is_told_as_far_as_it_is(tmp_path, rows, said):
  assert said in (foreign(tmp_path / "run", rows).parent / "report.md").read_text()


@pytest.mark.parametrize(("count", "scrolls"), [(15, False), (60, False), (61, True)])
def test_a_table_is_shown_whole_or_says_that_it_scrolls(count, scrolls):
  grid = Grid("Layers", ["layer", "gain"], [[f"layer{number}", "1"] for number in range(count)], "A note.")
  for text in (page.text_table(grid), page._titled(grid)):
    assert ("tall" in text) is scrolls
    assert (f"{count} rows: scroll inside the table to see all of them." in text) is scrolls
    assert "A note." in text


def test_a_folder_without_a_study_is_refused(tmp_path):
  with pytest.raises(InputError, match="no study"):
    report.write(tmp_path, tmp_path / "report")


def test_a_place_that_cannot_be_written_is_refused(tmp_path, no_figures):
  example_study.write(tmp_path, arms=("cross_entropy",), seeds=(0,), targets=("digits",))
  (tmp_path / "file").write_text("x")
  with pytest.raises(InputError, match="cannot write"):
    report.write(tmp_path, tmp_path / "file" / "report")
