import csv
import dataclasses
import io
import json
import re

import pytest

from jaxtl.report import page, text_formats
from jaxtl.report import results as results_lib
from jaxtl.studies.pretrain.tables import make_table
from tests.report import example_study


@pytest.fixture(scope="module")
def results(tmp_path_factory):
  return results_lib.load(example_study.write(tmp_path_factory.mktemp("study")))


def test_csv_parses_back_to_the_rows(results):
  lines = list(csv.DictReader(io.StringIO(text_formats.to_csv(results))))
  assert len(lines) == len(results.rows)
  for line, row in zip(lines, results.rows):
    for key, value in row.items():
      if key == "classes":
        continue
      found = line[key] if isinstance(value, str) else json.loads(line[key])
      assert found == value or (value != value and found != found), key
    assert all(text == "" for key, text in line.items() if key not in (*row, "config_sha256", "command"))
    assert line["config_sha256"] == results.digest
    assert line["command"] == "jaxtl run x.py"


@pytest.mark.parametrize(
  "text",
  [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    " =1+1",
    "\t=1",
    "-",
    "--5",
    "+",
    "-1_000",
    "\uff1d1",
    "-\u0661",
  ],
)
def test_a_text_that_spreadsheets_would_run_is_text_in_csv(text):
  [[name, value], [first, second]] = csv.reader(
    io.StringIO(text_formats.csv_text([text, "b"], [["a", text]]))
  )
  assert name == second == f"'{text}"
  assert (value, first) == ("b", "a")


@pytest.mark.parametrize(
  "value", [-0.5, -3, "-0.5", "+1e-7", "-inf", "nan", "-.5", "-1.", 1e-30, None, "a=b", "", "x-1"]
)
def test_numbers_and_other_texts_stay_as_they_are_in_csv(value):
  [[found]] = list(csv.reader(io.StringIO(text_formats.csv_text([value], [])))) or [[""]]
  assert found == ("" if value is None else str(value))


def test_a_study_s_csv_has_no_formula_of_its_rows(results):
  row = {"kind": "=1", "arm": "-x", "seed": 0, "=key": "@a", "loss": -0.5}
  [line] = csv.DictReader(io.StringIO(text_formats.to_csv(dataclasses.replace(results, rows=[row]))))
  assert (line["kind"], line["arm"], line["'=key"], line["loss"]) == ("'=1", "'-x", "'@a", "-0.5")


def test_no_format_has_control_characters(results):
  text = "a\x1b[31mb\x9b\u202ec\0"
  for shown in (
    text_formats.markdown(text),
    text_formats.latex(text),
    text_formats.csv_text([text], []),
    page.escape(text),
  ):
    assert not re.search("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202e]", shown)
    assert "x1b" in shown


def test_markdown_is_escaped():
  text = text_formats.markdown("a|b *c* `d` <script> [x](y) $e$\nf _g_ h_i & j")
  assert text == r"a\|b \*c\* \`d\` &lt;script&gt; \[x\](y) \$e\$ f \_g\_ h_i &amp; j"


def test_latex_is_escaped():
  assert text_formats.latex("50% of_a & {b} #1 $x$ ~ ^ \\") == (
    r"50\% of\_a \& \{b\} \#1 \$x\$ \textasciitilde{} \textasciicircum{} \textbackslash{}"
  )


def test_latex_tables_have_a_row_for_each_arm(results):
  tables = [make_table(results, name) for name in example_study.PROTOCOLS]
  text = text_formats.to_latex(results, [(table, [("Seeds", "3")]) for table in tables])
  assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
  for table in tables:
    assert table.arms == example_study.ARMS
  rows = [line for line in text.splitlines() if line.endswith(r"\\")]
  assert len(rows) == 2 * (len(example_study.ARMS) + 1)
  assert len({line.count("&") for line in rows}) == 1
  assert r"from\_scratch & 0.016" in text
