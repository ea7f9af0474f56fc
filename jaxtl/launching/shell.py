"""Shell text: quotes the command of a run, and restarts it on exit code 42."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence

from jaxtl.launching.job import Job, bucket, mounted

HEADER = "#!/usr/bin/env bash\n"
BUCKETS = "/mnt/gcs"  # contains one folder per bucket
USER = 1000  # user id in the containers of launch/docker


def quote(words: Sequence[str]) -> list[str]:
  """Quotes each word for the shell."""
  return [shlex.quote(word) for word in words]


def run_words(job: Job, *, root: str = BUCKETS, limit: bool = True) -> list[str]:
  """Returns the words of `jaxtl run`, except those about processes.

  Args:
    job: the job.
    root: where buckets are mounted.
    limit: whether to include --workdir, --arms and --seeds; an array sweep sets them per task.
  """
  words = ["run", job.config, *job.overrides]
  if limit:
    words += [f"--workdir={mounted(job.workdir, root)}"]
    words += [f"--arms={','.join(job.arms)}"] if job.arms else []
    words += [f"--seeds={','.join(map(str, job.seeds))}"] if job.seeds else []
  words += [f"--data-dir={mounted(job.data_dir, root)}"] if job.data_dir else []
  return [*words, *job.run_options]


def lines(words: Sequence[str], indent: str = "") -> str:
  """Joins quoted words into one command over several lines."""
  return f" \\\n{indent}  ".join(words)


def command(job: Job, *extra: str, program: Sequence[str] = ("jaxtl",), indent: str = "") -> str:
  """Formats `jaxtl run` as shell text.

  Args:
    job: the job.
    *extra: further words, already quoted, so that they may contain variables.
    program: replaces `jaxtl`, already quoted.
    indent: indentation of the first line.
  """
  first, config, *rest = quote(run_words(job))
  return lines([f"{' '.join(program)} {first} {config}", *rest, *extra], indent)


def buckets(job: Job) -> list[str]:
  """Returns the distinct buckets that must be mounted."""
  found = [bucket(path) for path in (job.workdir, job.data_dir or "")]
  return list(dict.fromkeys(name for name in found if name))


def processes(coordinator: str, count: str, index: str) -> list[str]:
  """Returns the options that let several processes find each other; they may contain shell variables."""
  return [f'--coordinator="{coordinator}"', f"--num-processes={count}", f'--process-id="{index}"']


def wait_for(host: str, port: str, index: str) -> str:
  """Returns shell text that waits for process 0.

  Machines may start minutes apart, and `jaxtl run` alone waits for only 25 s.
  """
  return f"""\
# Process 0 may be minutes away; a run that does not find it within 25 s would use up a restart.
if [ "{index}" != 0 ]; then
  SECONDS=0
  until (: > "/dev/tcp/{host}/{port}") 2> /dev/null; do
    if [ "$SECONDS" -gt 1800 ]; then break; fi
    sleep 2
  done
fi
"""


def wait_in_line(host: str, port: str, index: str) -> str:
  """Returns a one-line wait for process 0, which another command can follow."""
  tried = f"(: > /dev/tcp/{host}/{port}) 2> /dev/null && break; sleep 2"
  return f'if [ "{index}" != 0 ]; then for ((i = 0; i < 900; i++)); do {tried}; done; fi; '


def run_function(command: str, wait: str = "") -> str:
  """Returns a shell function `run` for `restart_loop`.

  Args:
    command: its last command; further lines are already indented.
    wait: commands that it runs first.
  """
  return f"run() {{\n{textwrap.indent(wait, '  ')}  {command}\n}}\n"


def restart_loop(retries: int) -> str:
  """Returns a loop that calls the function `run` in a subprocess, and again after exit code 42.

  The loop ends with the exit code of the last call.

  Args:
    retries: how often the function is called again.
  """
  return f"""\
# Exit code 42 asks for another start; nothing else does. SIGTERM is passed on, and the save waited for.
child=
stopping=
stop() {{
  stopping=1
  [ -z "$child" ] || kill -TERM "$child" 2> /dev/null
}}
trap stop TERM INT
retries={retries}
for ((restart = 0; ; restart++)); do
  run &
  child=$!
  wait "$child"
  rc=$?
  while kill -0 "$child" 2> /dev/null; do # a signal ends `wait`, not the run
    wait "$child"
    rc=$?
  done
  if [ "$rc" -ne 42 ] || [ -n "$stopping" ] || [ "$restart" -ge "$retries" ]; then break; fi
  echo "jaxtl asks to be started again: restart $((restart + 1)) of $retries" >&2
done
exit "$rc"
"""
