"""Lines that a user adds to SLURM's scripts: what SLURM and bash read of them, and what is refused."""

import os
import subprocess

import pytest

from jaxtl import cli, launching
from jaxtl.errors import ConfigError
from jaxtl.launching import directives
from tests.launching.conftest import texts
from tests.launching.test_local import here

__all__ = ["here"]  # a fixture
SCRIPTS = {"slurm": ["train.sbatch"], "slurm-array": ["array_sweep.sbatch", "report.sbatch"]}


def head(text: str) -> list[str]:
  return [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]


@pytest.mark.parametrize(
  ("line", "found"),
  [
    ("qos=high", "qos=high"),
    ("--qos=high", "qos=high"),
    ("#SBATCH --qos=high", "qos=high"),
    ("#SBATCH --qos high", "qos=high"),
    ("exclusive", "exclusive"),
    ("constraint=[a100&nvlink|h100*2]", "constraint=[a100&nvlink|h100*2]"),
    ("mail-type=END,FAIL", "mail-type=END,FAIL"),
    ("comment=two words", 'comment="two words"'),
    ('comment="two words"', 'comment="two words"'),
    ("output=logs/%x-%j.txt", "output=logs/%x-%j.txt"),
    ("site-option=1", "site-option=1"),  # of a plug-in
    ("gres=license_of_disk:2", "gres=license_of_disk:2"),
  ],
)
def test_a_line_reaches_the_head_of_the_script(plan, line, found):
  (script,) = texts(plan("slurm", sbatch=(line,))).values()
  assert found in head(script)
  names = [entry.partition("=")[0] for entry in head(script)]
  assert len(names) == len(set(names))  # `output` replaces the script's own


def test_the_head_ends_before_the_first_command(plan):
  """SLURM reads no directive after a command."""
  for target, names in SCRIPTS.items():
    files = texts(plan(target, sbatch=("qos=high",), setup=("module load cuda",)))
    assert list(files) == names
    for text in files.values():
      _, *lines = text.splitlines()
      rest = lines[len(head(text)) :]
      assert all(line.startswith("#SBATCH ") for line in lines[: len(head(text))])
      assert "#SBATCH" not in "\n".join(rest)


def test_the_report_of_a_sweep_asks_for_no_accelerator(plan):
  lines = ("qos=high", "gpu-freq=high", "exclusive", "dependency=afterok:7", "mem-per-gpu=9G")
  files = texts(plan("slurm-array", sbatch=lines, partition="a,b", account="lab"))
  assert {"qos=high", "partition=a,b", "account=lab", "dependency=singleton"} <= set(
    head(files["report.sbatch"])
  )
  assert not set(lines[1:]) & set(head(files["report.sbatch"]))
  assert set(lines) <= set(head(files["array_sweep.sbatch"]))


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("qos", None),
    ("qos=", "whose value is empty"),
    ("", "expected OPTION or OPTION=VALUE"),
    ("=high", "expected OPTION or OPTION=VALUE"),
    ("Qos=high", "expected OPTION or OPTION=VALUE"),
    ("-C a100", "expected the option's long name"),
    ("#SBATCH -C a100", "expected the option's long name"),
    ("qos=a\n#SBATCH --mem=1", "line break"),
    ("comment=a\tb", "control character"),
    ('comment=say "hi"', "has a quote or backslash"),
    ("comment='open", "has a quote or backslash"),
    ("comment=a\\b", "has a quote or backslash"),
    ("qso=high", "sets 'qso', which sbatch does not have; did you mean 'qos'?"),
    ("constrain=a100", "did you mean 'constraint'?"),
    ("partion=gpu", "sets 'partion', which sbatch does not have; use --partition instead"),
    ("partition=gpu", "which the script sets itself; use --partition instead"),
    ("time=1:00:00", "use --time-limit instead"),
    ("gres=gpu:2", "use --chips and --accelerator instead"),
    ("wrap=true", "is for sbatch's command line; leave it out"),
  ],
)
def test_a_line_that_cannot_be_is_refused(line, message):
  if message is None:
    assert directives.parse([line]) == {line: ""}
    return
  with pytest.raises(ConfigError) as error:
    directives.parse([line])
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_one_option_is_set_once():
  with pytest.raises(ConfigError, match="--sbatch sets qos twice; write it once"):
    directives.parse(["qos=a", "--qos=b"])


@pytest.mark.parametrize(
  ("target", "name"), [("slurm", "train.sbatch"), ("slurm-array", "array_sweep.sbatch")]
)
def test_setup_changes_what_the_run_sees_and_where_it_fails_the_job_ends(plan, target, name, tmp_path):
  """Bash runs the script, with srun and jaxtl replaced."""
  (tmp_path / "srun").write_text('#!/bin/sh\necho "run: $A|$B|$HERE" >> found\n')
  (tmp_path / "srun").chmod(0o755)
  (tmp_path / "env.sh").write_text("false\nexport HERE=sourced\n")  # a line of a sourced file may fail

  def run(*setup: str) -> subprocess.CompletedProcess:
    script = texts(plan(target, setup=setup))[name]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "0"}
    return subprocess.run(
      ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )

  done = run("export A=1", "source ./env.sh", "if [ -z \"$B\" ]; then\n  export B='two words'\nfi\n")
  assert (done.returncode, done.stderr) == (0, "")
  assert (tmp_path / "found").read_text() == "run: 1|two words|sourced\n"
  done = run("source ./none.sh")
  assert done.returncode == 1
  assert done.stderr.endswith("jaxtl: --setup failed with exit code 1: source ./none.sh\n")
  done = run("export A=1", "(exit 42)", "touch later")
  assert done.returncode == 42  # and nothing asks for another start
  assert done.stderr == "jaxtl: --setup failed with exit code 42: ( exit 42 )\n"
  assert not (tmp_path / "later").exists()
  assert (tmp_path / "found").read_text().count("\n") == 1


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (" \n", "--setup is empty"),
    ("source a\r\nsource b\r\n", "Windows line endings"),
    ("module load a\n#SBATCH --mem=1G", "write --sbatch NAME=VALUE"),
    ("source a \\", "ends in a backslash"),
    ("echo \0", "without NUL"),
    ("echo \ud800", "expected UTF-8"),
  ],
)
def test_setup_that_cannot_be_is_refused(plan, text, message):
  with pytest.raises(ConfigError) as error:
    plan("slurm", setup=(text,))
  assert message in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["echo 'open", "if true; then", "cat <<EOF\nno end", "done"])
def test_setup_that_would_swallow_the_lines_after_it_is_refused(text):
  with pytest.raises(ConfigError, match="--setup is not valid shell text") as error:
    launching.check_setup(["export A=1", text])
  assert "\n" not in str(error.value)
  launching.check_setup(['export A="it\'s"', "if true; then", "true\nfi", "cat <<EOF\nx\nEOF"])


def test_processes_with_accelerators_have_eight_cpus_unless_told_otherwise(plan):
  (default,) = texts(plan("slurm", chips=4)).values()
  assert "cpus-per-task=8" in head(default)
  assert " --cpus-per-task=8 " in default
  (three,) = texts(plan("slurm", chips=4, cpus=3)).values()
  assert "cpus-per-task=3" in head(three)
  (none,) = texts(plan("slurm")).values()
  assert "cpus-per-task" not in none


def test_the_command_line_takes_lines_and_files_in_order(here, capsys):
  (here / "env.sh").write_text("module load cuda\n\nexport A=1\n")
  words = ["--setup", "FIRST=1", "--setup-file", "env.sh", "--setup", "source 'my env/activate'"]
  words += ["--sbatch", "qos=high", "--sbatch=--exclusive", "--partition", "gpu", "--account", "lab"]
  assert cli.main(["launch", "slurm", "tiny.py", "--dry-run", *words]) == 0
  out = capsys.readouterr().out
  assert "\nFIRST=1\nmodule load cuda\n\nexport A=1\nsource 'my env/activate'\n" in out
  for line in ("partition=gpu", "account=lab", "qos=high", "exclusive"):
    assert f"#SBATCH --{line}\n" in out


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["slurm", "--setup-file", "none.sh"], "cannot read 'none.sh': No such file or directory"),
    (["slurm", "--setup-file", "latin.sh"], "cannot read 'latin.sh': it is not UTF-8 text"),
    (["slurm", "--setup", "echo 'open"], "--setup is not valid shell text"),
    (["slurm", "--sbatch", "qso=high"], "did you mean 'qos'?"),
    (
      ["slurm", "--partition", "a b"],
      "--partition is 'a b'; expected a word like gpu, or several like gpu,debug",
    ),
    (["slurm", "--partition", "a,"], "--partition is 'a,'"),
    (["slurm", "--account", "a\n#SBATCH --mem=1"], "--account is"),
    (["slurm", "--cpus", "0"], "expected a positive integer, got '0'"),
    (["slurm", "--queue", "gpu"], "slurm takes no --queue, which is for gke; write --partition"),
    (["slurm-array", "--project", "lab"], "write --account"),
    (["local", "--setup", "true"], "local takes no --setup, which is for slurm, slurm-array; leave it out"),
  ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(here, capsys, words, message):
  (here / "latin.sh").write_bytes(b"\xff")
  before = sorted(here.rglob("*"))
  target, *options = words
  try:
    code = cli.main(["launch", target, "tiny.py", "--write", "launch", *options])
  except SystemExit as stop:
    code = stop.code
  assert code == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.startswith("jaxtl: ")
  assert error.count("\n") == 1
  assert sorted(here.rglob("*")) == before
