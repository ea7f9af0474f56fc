#!/usr/bin/env bash
set -eu
cd "$(dirname "$0")"
gcloud compute tpus tpu-vm delete tiny-imagenet \
  --zone=us-central2-b \
  --project=my-project \
  --quiet
