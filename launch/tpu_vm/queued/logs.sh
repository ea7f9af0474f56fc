#!/usr/bin/env bash
set -eu
cd "$(dirname "$0")"
gcloud compute tpus tpu-vm ssh tiny-imagenet \
  --worker=all \
  '--command=sudo journalctl --unit=jaxtl-tiny-imagenet --follow' \
  --zone=us-central2-b \
  --project=my-project
