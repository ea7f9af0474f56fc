"""`jaxtl launch` as a user types it: what it prints, writes and runs, and one line for what is wrong."""

import os
import re
import sys
from pathlib import Path

import pytest

from jaxtl import cli, launching
from jaxtl.launching.job import label
from tests.launching.test_local import ROOT, here

__all__ = ["here"]  # a fixture
SLURM = ("launch", "slurm", "tiny.py")


def line(capsys, *arguments: str) -> str:
  assert cli.main(arguments) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert error.startswith("jaxtl: ")
  return error


def files(folder: Path) -> list[str]:
  return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_dry_run_prints_all_and_writes_nothing(here, capsys):
  before = files(here)
  assert cli.main([*SLURM, "--dry-run", "base.epochs=3.0"]) == 0
  out, error = capsys.readouterr()
  assert out.startswith("==> runs/launch/tiny/train.sbatch\n#!/usr/bin/env bash\n#SBATCH --job-name=tiny\n")
  assert "  base.epochs=3.0 \\\n" in out
  assert "==> commands\nsbatch runs/launch/tiny/train.sbatch\n" in out
  assert "jaxtl" not in error
  assert cli.main([*SLURM, "base.epochs=3.0"]) == 0
  again, error = capsys.readouterr()
  assert again == out
  assert error == "jaxtl: nothing has been submitted; add --yes to submit it\n"
  assert files(here) == before


def test_yes_writes_the_files_and_runs_the_commands(here, capfd):
  (here / "bin" / "sbatch").write_text('#!/bin/sh\necho "sbatch got $*"; head -n 2 "$1" | tail -n 1\n')
  (here / "bin" / "sbatch").chmod(0o755)
  assert cli.main([*SLURM, "--yes", "--name", "second"]) == 0
  out = capfd.readouterr().out
  assert "sbatch got runs/launch/second/train.sbatch\n#SBATCH --job-name=second\n" in out
  assert "later: squeue --name=second" in out
  assert cli.main([*SLURM, "--yes", "--write", "elsewhere"]) == 0
  assert (here / "elsewhere" / "train.sbatch").is_file()


def test_a_command_that_fails_ends_it_with_its_exit_code(here, capfd):
  (here / "bin" / "sbatch").write_text("#!/bin/sh\necho $1 >> calls; exit 7\n")
  (here / "bin" / "sbatch").chmod(0o755)
  assert cli.main(["launch", "slurm-array", "tiny.py", "--yes"]) == 7
  error = capfd.readouterr().err
  assert error == "jaxtl: sbatch runs/launch/tiny/array_sweep.sbatch ended with exit code 7\n"
  assert (here / "calls").read_text().splitlines() == ["runs/launch/tiny/array_sweep.sbatch"]


def test_a_program_that_is_missing_is_one_line_and_nothing_is_written(here, capsys, monkeypatch):
  monkeypatch.setenv("PATH", str(here / "bin"))
  before = files(here)
  words = {
    "slurm": (["slurm"], "sbatch"),
    "skypilot": (["skypilot", "--image", "i", "--workdir", "gs://bucket/x"], "sky"),
    "gke": (["gke", "--image", "i", "--workdir", "gs://bucket/x"], "kubectl"),
  }
  for (target, *options), program in words.values():
    found = line(capsys, "launch", target, "tiny.py", *options, "--yes")
    assert f"there is no {program} on PATH, which this target needs" in found
  assert files(here) == before


def test_files_of_another_launch_are_not_overwritten(here, capsys):
  (here / "bin" / "sbatch").write_text("#!/bin/sh\n")
  (here / "bin" / "sbatch").chmod(0o755)
  assert cli.main([*SLURM, "--yes"]) == 0
  assert cli.main([*SLURM, "--yes"]) == 0
  capsys.readouterr()
  found = line(capsys, *SLURM, "--yes", "--retries", "9")
  assert (
    "runs/launch/tiny/train.sbatch belongs to another launch; remove it, or give another --name or --write"
    in found
  )


def test_write_alone_writes_and_submits_nothing(here, capsys):
  assert cli.main([*SLURM, "--write", "there"]) == 0
  assert (here / "there" / "train.sbatch").read_text() in capsys.readouterr().out
  assert cli.main([*SLURM, "--write", "not-there", "--dry-run"]) == 2
  assert not (here / "not-there").exists()
  (here / "file").write_text("")
  capsys.readouterr()
  assert cli.main([*SLURM, "--write", "file/x"]) == 2
  assert "jaxtl: cannot write to file/x" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--dry-run", "--yes"], "--dry-run and --yes contradict each other"),
    (["--arms", "frist"], "no arm 'frist'; the config has first, second"),
    (["--seeds", "7"], "no seed 7; the config has 0, 1"),
    (["--zone", "z"], "slurm takes no --zone, which is for xpk, gce, tpu-vm, queued-resource, skypilot"),
    (["base.epohcs=1"], "has no 'epohcs'; did you mean 'epochs'?"),
    (["--name", "No"], "--name is 'No'; expected a DNS label"),
    (["--grace", "10"], "write at least 30"),
  ],
)
def test_a_mistake_is_one_line_before_anything_is_submitted(here, capsys, arguments, message):
  before = files(here)
  assert message in line(capsys, *SLURM, *arguments)
  assert files(here) == before


def test_arms_and_seeds_of_a_sweep_are_the_configs_or_those_chosen(here, capsys):
  assert cli.main(["launch", "slurm-array", "tiny.py", "--dry-run"]) == 0
  assert "arms=(first second)\nseeds=(0 1)\n" in capsys.readouterr().out
  assert cli.main(["launch", "slurm-array", "tiny.py", "--dry-run", "--arms", "second", "--seeds", "1"]) == 0
  assert "arms=(second)\nseeds=(1)\n" in capsys.readouterr().out
  assert cli.main([*SLURM, "--dry-run", "--arms", "second", "--seeds", "1"]) == 0
  assert "  --arms=second \\\n  --seeds=1\n" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("option", "found"),
  [
    (["--hang-limit", "60"], "--hang-limit=60"),
    (["--gather-limit", "60"], "--gather-limit=60"),
    (["--heartbeat", "30"], "--heartbeat=30"),
    (["--num-devices", "4"], "--num-devices=4"),
    (["--model-devices", "2"], "--model-devices=2"),
    (["--cpu-devices", "3"], "--cpu-devices=3"),
    (["--trust"], "--trust"),
    (["--no-report"], "--no-report"),
    (["--data-dir", "a b"], "'--data-dir=a b'"),
    (["--workdir", "there"], "--workdir=there"),
    ([], "--workdir=runs/tiny"),
  ],
)
def test_options_of_the_run_are_handed_on(here, capsys, option, found):
  assert cli.main([*SLURM, *option, "--dry-run"]) == 0
  assert found in capsys.readouterr().out


def test_a_flag_is_not_taken_for_an_option_with_a_value(here, capsys):
  for flag in ("--dry-run", "--trust"):
    assert cli.main(["launch", "local", "tiny.py", flag, "base.epochs=3.0"]) == 0
    assert "base.epochs=3.0" in capsys.readouterr().out
  words = ["launch", "skypilot", "tiny.py", "--image", "i", "--workdir", "gs://bucket/x"]
  assert cli.main([*words, "--spot", "base.epochs=3.0", "--dry-run"]) == 0
  assert "base.epochs=3.0" in capsys.readouterr().out


def test_a_name_is_made_of_the_configs():
  assert label("tiny_imagenet") == "tiny-imagenet"
  assert label("2024 Run!") == "run-2024-run"  # a label begins with a letter
  assert label("cifar10") == "cifar10"
  assert label("...") == "run"
  assert len(label("a" * 99)) == 40
  assert label("a" * 99) != label("a" * 98)


def test_every_config_has_a_name_of_its_own_that_every_target_takes(monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  words = {"gke": ["--image", "i", "--workdir", "gs://bucket/x"], "slurm": []}
  names: dict[str, list[str]] = {target: [] for target in words}
  for path in sorted(Path("configs").rglob("*.py")):
    for target, needed in words.items():
      assert cli.main(["launch", target, str(path), *needed, "--dry-run"]) == 0
      out = capsys.readouterr().out
      found = re.search(r"#SBATCH --job-name=(.*)|kind: JobSet\nmetadata:\n  name: (.*)", out)
      names[target].append(found[1] or found[2])
  assert names["gke"] == names["slurm"]
  assert {"quickstart", "pretrain-cifar10", "flatness-cifar10", "patching-clip-vit-b32"} <= set(names["gke"])
  assert len(set(names["gke"])) == len(names["gke"])
  for name in names["gke"]:
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name) <= 40


def test_rendering_needs_the_standard_library_alone():
  code = "import sys, jaxtl.launching; print({'jax', 'yaml', 'numpy'} & set(sys.modules))"
  import subprocess

  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True
  )
  assert done.stdout.strip() == "set()"
  assert launching.Job(config="c.py", name="a", workdir="w").processes == 1
