#!/bin/bash
# Extraction on a Ray cluster, one actor per GPU (or per CPU, where there are no GPUs):
#
#   ray start --head                                    on the first node; then, as it says, on the others
#   jobs/ray/extract.sh corpus/manifest.jsonl --store corpus.store --llm meta-llama/Llama-3.1-8B-Instruct
#
# The store and the audio must be visible to all nodes under the same path. RAY_ADDRESS names a cluster elsewhere.

set -eu
export PATH="${SPEECHMAPPER_BIN:-$PWD/.venv/bin}:$PATH"

exec sm-pipeline extract "$@" --engine ray
