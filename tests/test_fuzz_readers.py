"""Every reader of text takes any text: it returns something, or refuses in one line that can be printed."""

import argparse
import contextlib
import json
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jaxtl import cli, config
from jaxtl.cli import options
from jaxtl.errors import InputError, printable
from jaxtl.evaluation import label_map
from jaxtl.host import cluster, metrics_log, sealed_json
from jaxtl.pretrained import importing, model_card, readers, side_files
from jaxtl.report.results import load
from jaxtl.runner import provenance, rows
from jaxtl.zero_shot import prompts

pytestmark = pytest.mark.slow

DEEP = "[" * 100_000
DIGITS = "9" * 400
some = settings(
  max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
json_values = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**399),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
  max_leaves=8,
)
texts = st.text(max_size=60) | json_values.map(json.dumps)
contents = st.binary(max_size=60) | texts.map(lambda text: text.encode("utf-8", "surrogatepass"))


def refused(action):
  """The line in which an action refuses, None where it does not; any other error fails the test."""
  try:
    action()
  except InputError as error:
    said = str(error)
  except OSError as error:  # a place that cannot be read: the command line says so
    said = str(error)
  else:
    return None
  assert said
  assert "\n" not in printable(said)
  return said


FILES = {
  "class map": label_map.read_class_map,
  "class list": importing.read_classes,
  "prompts": lambda path: prompts.read_prompts(str(path)),
  "object": provenance.read_json,
  "sessions": provenance.read_sessions,
  "rows": rows.read_rows,
  "side file": side_files.read_json,
  "shards": readers._shards,
  "records": metrics_log._read_records,
}


@pytest.mark.parametrize("name", FILES)
@some
@given(content=contents)
@example(content=DEEP.encode())
@example(content=b"[" + DIGITS.encode() + b"]")
@example(content=b'{"a": ' + DIGITS.encode() * 20 + b"}")
@example(content=b"\xff\xfe\x00")
@example(content=b"{}")
@example(content=b"[]")
@example(content=b"null")
def test_a_file_with_any_content_is_read_or_refused(tmp_path, name, content):
  path = tmp_path / "file.json"
  path.write_bytes(content)
  refused(lambda: FILES[name](path))


@some
@given(
  fields=st.fixed_dictionaries({"arms": json_values, "seeds": json_values, "base": json_values}),
  row=json_values,
)
@example(fields={"arms": {"../x": {}}, "seeds": [0], "base": {}}, row={})
@example(fields={"arms": {"a": {}}, "seeds": ["../../x"], "base": {}}, row={})
@example(fields={"arms": {"a": {}}, "seeds": [[]], "base": {}}, row={})
@example(fields={"arms": {"a": {}}, "seeds": [0], "base": {}}, row={"accuracy": 10**399})
def test_a_working_folder_with_any_config_is_read_or_refused(tmp_path, fields, row):
  (tmp_path / "a" / "0").mkdir(parents=True, exist_ok=True)
  (tmp_path / "config.json").write_text(json.dumps(fields))
  line = {"arm": "a", "seed": 0, **(row if isinstance(row, dict) else {"x": row})}
  (tmp_path / "a" / "0" / "rows.jsonl").write_text(json.dumps(line) + "\n")
  refused(lambda: load(tmp_path))


@some
@given(line=texts)
@example(line=DEEP)
@example(line='{"step": 1, "x": ' + DIGITS + "}")
@example(line='{"step": ' + DIGITS + "}")
@example(line='{"step": 1, "x": -' + "9" * 5000 + "}")
@example(line='{"step": true}')
def test_a_record_is_numbers_that_can_be_used_or_no_record(line):
  try:
    record = sealed_json.record(line)
  except ValueError:
    pass
  else:
    assert all(isinstance(float(value), float) for value in record.values())
    assert record["step"] < 2**63


GOOD = '{"step": 1, "eval/test/top1": 0.5}\n'


@pytest.mark.parametrize("line", ['{"step": 2, "eval/test/top1": ' + DIGITS + "}", DEEP, "[3]", GOOD.strip()])
def test_a_model_card_tells_no_evaluation_of_damaged_metrics(tmp_path, line):
  """The last one may be among what is damaged, and the card would tell an older one in its place."""
  (tmp_path / "metrics.jsonl").write_text(f"{GOOD}{line}\n")
  assert model_card._measured(SimpleNamespace(path=str(tmp_path))) == ""


def test_a_model_card_leaves_out_a_line_that_is_being_written(tmp_path):
  (tmp_path / "metrics.jsonl").write_text(GOOD + '{"st')
  assert "| test/top1 | 0.5000 |" in model_card._measured(SimpleNamespace(path=str(tmp_path)))


@some
@given(
  overrides=st.lists(
    st.text(max_size=30) | st.tuples(st.text("ab.01", max_size=8), texts).map("=".join), max_size=3
  )
)
@example(overrides=["a=" + DIGITS])
@example(overrides=["a=" + DEEP])
@example(overrides=["a={[]: 1}"])
@example(overrides=["a=" + "-" * 10_000 + "1"])
@example(overrides=["=1", ".=1", "a..b=1", "b.\u00b2=1"])
@example(overrides=["b." + DIGITS + "=1"])
@example(overrides=["a." * 5000 + "a=1"])
def test_any_override_is_applied_or_refused(overrides):
  refused(lambda: json.dumps(config.override({"a": {"b": 1}, "b": [0, 1]}, overrides)))


READERS = ("names", "count", "fraction", "number", "seconds", "pattern", "channels", "numbers")


@pytest.mark.parametrize("name", READERS)
@some
@given(text=st.text(max_size=20) | st.text("0123456789.,-+einfa \u00b2\u0663", max_size=12))
@example(text=DIGITS)
@example(text="9" * 5000)
@example(text="0," + DIGITS)
@example(text="\u00b2")
def test_any_argument_is_read_or_refused(name, text):
  with contextlib.suppress(argparse.ArgumentTypeError):
    getattr(options, name)(text)


@some
@given(
  arguments=st.lists(
    st.text(max_size=12) | st.sampled_from(["run", "check", "eval", "data", "--seeds", "--workdir"]),
    max_size=5,
  )
)
@example(arguments=["check", "nowhere.py", "--num-devices", DIGITS])
@example(arguments=["run", "nowhere.py", "--seeds", "0," + DIGITS])
@example(arguments=["run", "\x1b]0;x\x07.py"])
@example(arguments=["report", "a" * 5000])
@example(arguments=["data", "check", "~nobody-is-called-so/x"])
def test_any_command_line_ends_with_one_line(capsys, arguments):
  # What would be done is not the matter here.
  if any(argument in ("-h", "--help", "--version") or argument.startswith("--h") for argument in arguments):
    return
  try:
    code = cli.main(arguments)
  except SystemExit as stop:
    code = stop.code
  captured = capsys.readouterr()
  assert code in (2, 3)
  lines = [line for line in captured.err.split("\n") if line.startswith("jaxtl: ")]
  assert len(lines) == 1
  assert not {"\x1b", "\x07", "\r"} & set(captured.err + captured.out)


names = st.sampled_from(
  [name for pair in cluster.LAUNCHERS.values() for name in pair] + ["SLURM_JOB_ID", "SLURM_PROCID"]
)


@some
@given(environment=st.dictionaries(names, st.text(max_size=6) | st.integers().map(str), max_size=6))
@example(environment={"WORLD_SIZE": DIGITS, "RANK": "0"})
def test_any_environment_is_understood_or_refused(environment):
  said = refused(lambda: cluster.detect(environment))
  assert said is None or len(said) < 400
