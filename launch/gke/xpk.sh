#!/usr/bin/env bash
set -eu
# xpk sends usage statistics unless it is told not to.
xpk config set send-telemetry false
# It starts a workload again after exit codes 42 and 127 to 255, and after no other.
xpk workload create \
  --workload=tiny-imagenet \
  --cluster=my-cluster \
  --project=my-project \
  --zone=us-east5-b \
  --docker-image=registry.example/jaxtl:0.1.0 \
  --device-type=v6e-16 \
  --num-nodes=4 \
  --max-restarts=3 \
  --termination-grace-period-seconds=60 \
  '--command=if [ "$JOB_COMPLETION_INDEX" != 0 ]; then for ((i = 0; i < 900; i++)); do (: > /dev/tcp/tiny-imagenet-slice-job-0-0.tiny-imagenet/8476) 2> /dev/null && break; sleep 2; done; fi; exec jaxtl run configs/pretrain/tiny_imagenet.py --workdir=/mnt/runs/tiny_imagenet --data-dir=/mnt/data --coordinator="tiny-imagenet-slice-job-0-0.tiny-imagenet:8476" --num-processes=4 --process-id="$JOB_COMPLETION_INDEX"'
