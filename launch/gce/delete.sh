#!/usr/bin/env bash
set -eu
cd "$(dirname "$0")"
gcloud compute instance-groups managed delete tiny-imagenet \
  --zone=us-east5-b \
  --project=my-project \
  --quiet
gcloud compute instance-templates delete tiny-imagenet \
  --project=my-project \
  --quiet
gcloud compute resource-policies delete tiny-imagenet \
  --region=us-east5 \
  --project=my-project \
  --quiet
