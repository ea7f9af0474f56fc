"""The fields of two custom resources that we use, written from their published types; others are refused.

JobSet: kubernetes-sigs/jobset, api/jobset/v1alpha2. LocalQueue: kubernetes-sigs/kueue, apis/kueue/v1beta1.
What is below a replicated job's template is a Job, which has a schema of its own.
"""

from typing import Any


def _object(required: str, **properties: Any) -> dict[str, Any]:
  return {
    "type": "object",
    "required": required.split(),
    "properties": properties,
    "additionalProperties": False,
  }


_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_LABEL = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "maxLength": 63}
_METADATA = _object("name", name=_LABEL, namespace=_LABEL, labels=_TEXTS, annotations=_TEXTS)
_REASONS = [
  "BackoffLimitExceeded",
  "DeadlineExceeded",
  "FailedIndexes",
  "MaxFailedIndexesExceeded",
  "PodFailurePolicy",
]
_RULE = _object(
  "action",
  name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", "maxLength": 128},
  action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
  onJobFailureReasons={"type": "array", "items": {"enum": _REASONS}, "uniqueItems": True},
  targetReplicatedJobs={"type": "array", "items": _LABEL},
)
_REPLICATED = _object(
  "name template", name=_LABEL, replicas={"type": "integer", "minimum": 1}, template={"type": "object"}
)
_SPEC = _object(
  "replicatedJobs",
  failurePolicy=_object(
    "",
    maxRestarts={"type": "integer", "minimum": 0},
    rules={"type": "array", "items": _RULE, "maxItems": 20},
  ),
  replicatedJobs={"type": "array", "items": _REPLICATED, "minItems": 1},
)
JOBSET = _object(
  "apiVersion kind metadata spec",
  apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
  kind={"const": "JobSet"},
  metadata=_METADATA,
  spec=_SPEC,
)
LOCAL_QUEUE = _object(
  "apiVersion kind metadata spec",
  apiVersion={"const": "kueue.x-k8s.io/v1beta1"},
  kind={"const": "LocalQueue"},
  metadata=_METADATA,
  spec=_object("clusterQueue", clusterQueue=_LABEL),
)
