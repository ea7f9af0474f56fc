"""A JobSet for Kubernetes, applied directly (`gke`) or created by xpk (`xpk`)."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from jaxtl.errors import ConfigError
from jaxtl.launching import manifest, shell
from jaxtl.launching.job import Job, bucket
from jaxtl.launching.manifest import filled
from jaxtl.launching.plan import File, LaunchPlan

CLAIM = "/mnt/claim"  # where --claim is mounted
WORKER = "w"  # the replicated job; short, because it is part of every pod's name
# 137 and 143 are the exit codes of a pod that was killed from outside. Every other code except 42 is final.
RESTARTED = (42, 137, 143)
# A pod is called NAME-w-0-INDEX-xxxxx, which must be a DNS label of at most 63 characters.
LONGEST = 63 - len("-w-0-99999-xxxxx")
# Pods of xpk are called NAME-slice-job-0-INDEX-xxxxx, and xpk accepts at most 40 characters of NAME.
LONGEST_XPK = 40


def jobset(job: Job, folder: PurePath) -> LaunchPlan:
  """Plans a JobSet with one pod per node; with --cluster-queue also the LocalQueue in which it waits."""
  job.need("gke", image="registry.example/jaxtl:0.1.0")
  job.short(LONGEST, "a pod's name ends in -w-0-INDEX-xxxxx and has 63 at most")
  _check_workdir(job)
  files = [File("jobset.yaml", manifest.dump(_jobset(job)))]
  if job.cluster_queue:
    job.need("--cluster-queue", queue="my-queue")
    files.insert(0, File("kueue-localqueue.yaml", manifest.dump(_local_queue(job))))
  here = () if job.namespace is None else (f"--namespace={job.namespace}",)
  return LaunchPlan(
    files=tuple(files),
    commands=tuple(("kubectl", "apply", f"--filename={folder / file.path}") for file in files),
    programs=("kubectl",),
    later=(
      (
        "kubectl",
        "logs",
        *here,
        "--follow",
        f"--selector=jobset.sigs.k8s.io/jobset-name={job.name}",
        "--prefix",
      ),
      ("kubectl", "delete", *here, "jobset", job.name),
    ),
  )


def _check_workdir(job: Job) -> None:
  if bucket(job.workdir) or (job.claim and PurePath(job.workdir).is_relative_to(CLAIM)):
    return
  raise ConfigError(
    f"--workdir is {job.workdir!r}, which is lost with its pod; write gs://BUCKET/PATH, "
    f"or --claim NAME and a folder below {CLAIM}"
  )


def _local_queue(job: Job) -> dict[str, Any]:
  return {
    "apiVersion": "kueue.x-k8s.io/v1beta1",
    "kind": "LocalQueue",
    "metadata": _metadata(job, job.queue or ""),
    "spec": {"clusterQueue": job.cluster_queue},
  }


def _metadata(job: Job, name: str) -> dict[str, Any]:
  return filled({"name": name, "namespace": job.namespace})


def _jobset(job: Job) -> dict[str, Any]:
  # One slice is one node pool, which runs only the pods of this job.
  exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
  notes = {
    "labels": filled({"kueue.x-k8s.io/queue-name": job.queue}),
    "annotations": exclusive if job.topology else {},
  }
  final = {"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": _metadata(job, job.name) | filled(notes),
    "spec": {
      "failurePolicy": {"maxRestarts": job.retries, "rules": [final]},
      "replicatedJobs": [{"name": WORKER, "replicas": 1, "template": {"spec": _job(job)}}],
    },
  }


def _job(job: Job) -> dict[str, Any]:
  codes = {"containerName": "jaxtl", "operator": "NotIn", "values": list(RESTARTED)}
  rules = [
    # A disrupted pod fails the job in a way that restarts the set, whatever its exit code.
    {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    {"action": "FailJob", "onExitCodes": codes},
  ]
  mounter = {"annotations": {"gke-gcsfuse/volumes": "true"}} if shell.buckets(job) else {}
  return {
    "completionMode": "Indexed",
    "completions": job.nodes,
    "parallelism": job.nodes,
    "backoffLimit": 0,
    "podFailurePolicy": {"rules": rules},
    "template": filled({"metadata": mounter, "spec": _pod(job)}),
  }


def _pod(job: Job) -> dict[str, Any]:
  mounts, volumes = _volumes(job)
  selector, tolerations = _selection(job)
  container = {
    "name": "jaxtl",
    "image": job.image,
    "command": ["bash", "-c", without_expansion(_script(job))],
    "ports": [{"containerPort": job.port}],
    "resources": _resources(job),
    "volumeMounts": mounts,
  }
  return filled(
    {
      "restartPolicy": "Never",
      "terminationGracePeriodSeconds": job.grace,
      "serviceAccountName": job.service_account,
      "nodeSelector": selector,
      "tolerations": tolerations,
      "securityContext": {"runAsUser": shell.USER, "runAsGroup": shell.USER, "fsGroup": shell.USER},
      "containers": [filled(container)],
      "volumes": volumes,
    }
  )


def _script(job: Job) -> str:
  """Returns the script of the container; `exec` makes SIGTERM reach the run itself."""
  if job.nodes == 1:
    return "exec " + shell.command(job) + "\n"
  # The first pod's name in the headless service that every JobSet has.
  host = f"{job.name}-{WORKER}-0-0.{job.name}"
  index = "$JOB_COMPLETION_INDEX"
  extra = shell.processes(f"{host}:{job.port}", str(job.nodes), index)
  return shell.wait_for(host, str(job.port), index) + "exec " + shell.command(job, *extra) + "\n"


def without_expansion(script: str) -> str:
  """Escapes text so that Kubernetes reads it back as `script`; it expands $(NAME), and turns $$ into $."""
  return re.sub(r"\$(?=[$(])", "$$", script)


def _selection(job: Job) -> tuple[dict[str, str], list[dict[str, str]]]:
  selector, tolerations = {}, []
  if job.accelerator and job.accelerator.startswith("tpu"):
    job.need("gke with a TPU", topology="4x4", chips="4")
    selector["cloud.google.com/gke-tpu-accelerator"] = job.accelerator
    selector["cloud.google.com/gke-tpu-topology"] = job.topology or ""
    tolerations.append({"key": "google.com/tpu", "operator": "Exists"})
  elif job.accelerator:
    job.need("gke with a GPU", chips="8")
    selector["cloud.google.com/gke-accelerator"] = job.accelerator
    tolerations.append({"key": "nvidia.com/gpu", "operator": "Exists"})
  if job.spot:
    selector["cloud.google.com/gke-spot"] = "true"
  return selector, tolerations


def _resources(job: Job) -> dict[str, Any]:
  kind = "google.com/tpu" if (job.accelerator or "").startswith("tpu") else "nvidia.com/gpu"
  requests = {"cpu": job.cpus, "memory": f"{job.memory}Gi" if job.memory else None}
  return filled({"requests": filled(requests), "limits": filled({kind: job.chips})})


def _volumes(job: Job) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  """Returns mounts and volumes; shared memory serves NCCL and the input pipeline."""
  mounts: list[dict[str, Any]] = [{"name": "shm", "mountPath": "/dev/shm"}]
  volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
  for number, name in enumerate(shell.buckets(job)):
    attributes = {"bucketName": name, "mountOptions": f"implicit-dirs,uid={shell.USER},gid={shell.USER}"}
    mounts.append({"name": f"bucket-{number}", "mountPath": f"{shell.BUCKETS}/{name}"})
    driver = {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}
    volumes.append({"name": f"bucket-{number}", "csi": driver})
  if job.claim:
    mounts.append({"name": "claim", "mountPath": CLAIM})
    volumes.append({"name": "claim", "persistentVolumeClaim": {"claimName": job.claim}})
  return mounts, volumes


def _xpk_command(job: Job) -> str:
  """Returns the command of the container.

  It is one line, because xpk inserts it into YAML unchanged. It uses `exec`, because xpk sends signals to a
  shell.
  """
  wait, extra = "", []
  if job.nodes > 1:
    host = f"{job.name}-slice-job-0-0.{job.name}"
    wait = shell.wait_in_line(host, str(job.port), "$JOB_COMPLETION_INDEX")
    extra = shell.processes(f"{host}:{job.port}", str(job.nodes), "$JOB_COMPLETION_INDEX")
  found = wait + " ".join(["exec jaxtl", *shell.quote(shell.run_words(job)), *extra])
  if not found.isprintable():
    raise ConfigError("xpk takes no line break in a value; write it into the config")
  return found


def xpk(job: Job, folder: PurePath) -> LaunchPlan:
  """Plans a script that makes xpk create and apply the JobSet."""
  job.need("xpk", image="registry.example/jaxtl:0.1.0", cluster="my-cluster")
  job.need("xpk", accelerator="v6e-16", project="my-project", zone="us-east5-b")
  job.short(LONGEST_XPK, "xpk refuses longer names")
  if not job.workdir.startswith("/"):
    raise ConfigError(
      f"--workdir is {job.workdir!r}; attach a volume with `xpk storage attach --auto-mount=true` and "
      "write a folder below its mount point, like /mnt/runs/first"
    )
  inner = _xpk_command(job)
  words = [
    f"--workload={job.name}",
    f"--cluster={job.cluster}",
    f"--project={job.project}",
    f"--zone={job.zone}",
    *([f"--namespace={job.namespace}"] if job.namespace else []),
    f"--docker-image={job.image}",
    f"--device-type={job.accelerator}",
    f"--num-nodes={job.nodes}",
    f"--max-restarts={job.retries}",
    f"--termination-grace-period-seconds={job.grace}",
    *(["--spot"] if job.spot else []),
    f"--command={without_expansion(inner)}",
  ]
  create = shell.lines(["xpk workload create", *shell.quote(words)])
  script = f"""\
{shell.HEADER}set -eu
# xpk sends usage statistics unless it is told not to.
xpk config set send-telemetry false
# It starts a workload again after exit codes 42 and 127 to 255, and after no other.
{create}
"""
  where = (f"--cluster={job.cluster}", f"--project={job.project}", f"--zone={job.zone}")
  return LaunchPlan(
    files=(File("xpk.sh", script),),
    commands=(("bash", str(folder / "xpk.sh")),),
    programs=("bash", "xpk"),
    later=(("xpk", "workload", "delete", f"--workload={job.name}", *where),),
  )
