"""Launching: describes a run once, and renders it for whatever starts it elsewhere.

A `Job` is plain data. A target turns it into a `LaunchPlan` of files and commands, and does nothing else, so
that what is printed is what is submitted. Only `submission` touches the disk and starts programs. The package
needs only the standard library.

Every target treats exit codes alike: 42 restarts the run, at most `retries` times, and no other code does.
The one exception is Kubernetes, which also restarts a run that was killed from outside (137, 143).
"""

from jaxtl.launching.job import Job
from jaxtl.launching.plan import File, LaunchPlan
from jaxtl.launching.submission import check_setup, submit, write
from jaxtl.launching.targets import TARGETS, render

__all__ = ["TARGETS", "File", "Job", "LaunchPlan", "check_setup", "render", "submit", "write"]
