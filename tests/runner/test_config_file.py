"""A config file is somebody's program: whatever it does, its values are read or it is refused in one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import jaxtl
from jaxtl.errors import ConfigError
from jaxtl.runner import config_file

RECURSION = "def f():\n  return f()\nf()"


def load(folder, text, *overrides):
  path = folder / "config.py"
  path.write_text(text)
  return config_file.load_config(path, overrides)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("raise SystemExit", "SystemExit"),
    ("raise SystemExit(0)", "SystemExit: 0"),
    ("import sys; sys.exit('bye')", "SystemExit: bye"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("raise GeneratorExit('x')", "GeneratorExit: x"),
    ("raise BaseException('a', 'b')", "BaseException: "),
    ("class Own(BaseException): pass\nraise Own", "Own"),
    ("class Odd(Exception):\n  def __str__(self): raise ValueError\nraise Odd", "Odd"),
    ("raise BaseExceptionGroup('many', [SystemExit(0)])", "BaseExceptionGroup: many"),
    (RECURSION, "RecursionError: maximum recursion depth"),
    ("raise ValueError('first\\nsecond')", "ValueError: first"),
  ],
)
def test_a_config_that_raises_anything_is_one_line(tmp_path, text, said, inside):
  indented = "def get_config():\n" + "".join(f"  {line}\n" for line in text.splitlines())
  with pytest.raises(ConfigError, match=f"config.py cannot be run: {said}") as caught:
    load(tmp_path, indented if inside else text)
  assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("", "has no get_config"),
    ("get_config = 3", "has no get_config"),
    ("def get_config(): return 3", "returns 3"),
    ("def get_config(): return None", "returns None"),
    ("def get_config(): return [1]", r"returns \[1\]"),
    ("def get_config(x): return {}", "cannot be run: TypeError"),
    ("def get_config():\n  d = {}\n  d['d'] = d\n  return d", "nested at most 64 deep"),
    ("def get_config(): return {'a': 10**5000}", "integer of 16610 bits"),
    ("def get_config(): return {'a': {1, 2}}", "holds numbers, text, lists and mappings"),
    ("class C:\n  def to_dict(self): return 1 / 0\ndef get_config(): return C()", "ZeroDivisionError"),
    ("class C:\n  to_dict = None\ndef get_config(): return {'c': C}", "a config holds"),
    ("\0", "cannot be run"),
  ],
)
def test_a_config_that_returns_anything_is_one_line(tmp_path, text, said):
  with pytest.raises(ConfigError, match=said) as caught:
    load(tmp_path, text)
  assert len(str(caught.value).splitlines()) == 1


def test_what_a_config_prints_is_no_output_of_the_command(tmp_path, capsys):
  assert load(tmp_path, "print('top')\ndef get_config():\n  print('in')\n  return {'a': 1}") == {"a": 1}
  captured = capsys.readouterr()
  assert (captured.out, captured.err) == ("", "top\nin\n")


def test_an_interrupt_by_hand_stays_one(tmp_path):
  before = signal.getsignal(signal.SIGINT)
  with pytest.raises(KeyboardInterrupt):
    load(tmp_path, "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)")
  assert signal.getsignal(signal.SIGINT) is before


def program(*arguments, folder):
  """The `jaxtl` program, which has neither the current folder nor the config's on its import path."""
  code = "import sys; sys.path.remove(''); from jaxtl.cli.main import main; sys.exit(main())"
  environment = {**os.environ, "PYTHONPATH": str(Path(jaxtl.__file__).parents[1])}
  return subprocess.run(
    [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True
  )


def test_the_program_ends_with_2_when_a_config_exits_with_0(tmp_path):
  (tmp_path / "exits.py").write_text("print('hello')\nimport sys\nsys.exit(0)")
  done = program("check", "exits.py", folder=tmp_path)
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr.splitlines()[-1] == "jaxtl: exits.py cannot be run: SystemExit: 0"


def test_modules_beside_the_config_and_in_the_current_folder_are_found(tmp_path, monkeypatch):
  """Behind all installed ones, so that a file called like one of them hides nothing."""
  beside, current = tmp_path / "configs", tmp_path / "here"
  for folder, name in ((beside, "lab_beside"), (current, "lab_current")):
    (folder / name).mkdir(parents=True)
    (folder / name / "losses.py").write_text("def mine(logits, labels, *, a=1.0): return logits")
  (beside / "json.py").write_text("raise SystemExit('hides the standard library')")
  monkeypatch.chdir(current)
  monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != ""])
  installed = list(sys.path)
  load(beside, "def get_config(): return {}")
  load(beside, "def get_config(): return {}")
  assert sys.path == [*installed, str(beside), str(current)]
  from jaxtl import config

  for name in ("lab_beside", "lab_current"):
    assert config.spec(dict(fn=f"{name}.losses.mine")).realize()(3, 0) == 3


@pytest.mark.parametrize(
  "name", ["..", "/abs", "", "a/b", "a\0", "x" * 300, "report", "config.json", "a\x1b"]
)
def test_an_arm_that_is_no_folder_s_name_is_refused(name):
  with pytest.raises(ConfigError, match="arms has the name"):
    config_file.StudyConfig(study=".studies.pretrain.rows", base={}, arms={name: {}})
