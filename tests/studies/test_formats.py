import csv
import io
import json

import pytest

from jaxtl.studies import formats
from jaxtl.studies import results as results_lib
from jaxtl.studies.tables import make_tables
from tests.studies import example_study


@pytest.fixture(scope="module")
def results(tmp_path_factory):
  return results_lib.load(example_study.write(tmp_path_factory.mktemp("study")))


def test_csv_parses_back_to_the_rows(results):
  lines = list(csv.DictReader(io.StringIO(formats.to_csv(results))))
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


def test_markdown_is_escaped():
  text = formats.markdown("a|b *c* `d` <script> [x](y) $e$\nf _g_ h_i & j")
  assert text == r"a\|b \*c\* \`d\` &lt;script&gt; \[x\](y) \$e\$ f \_g\_ h_i &amp; j"


def test_latex_is_escaped():
  assert formats.latex("50% of_a & {b} #1 $x$ ~ ^ \\") == (
    r"50\% of\_a \& \{b\} \#1 \$x\$ \textasciitilde{} \textasciicircum{} \textbackslash{}"
  )


def test_latex_tables_have_a_row_for_each_arm(results):
  tables = make_tables(results)
  text = formats.to_latex(results, tables, [[("Seeds", "3")] for _ in tables])
  assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
  for table in tables:
    assert table.arms == example_study.ARMS
  rows = [line for line in text.splitlines() if line.endswith(r"\\")]
  assert len(rows) == 2 * (len(example_study.ARMS) + 1)
  assert len({line.count("&") for line in rows}) == 1
  assert r"from\_scratch & 0.016" in text
