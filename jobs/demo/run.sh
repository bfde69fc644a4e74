#!/usr/bin/env bash
# The whole chain on a synthetic corpus, with the commands one would type. `make demo` calls it.
#   bash jobs/demo/run.sh OUT         OUT/results.json holds what was reached
set -euo pipefail
out=${1:?name the folder to write to}
corpus=$out/corpus store=$out/store
here=$(dirname "$0")
utterances=${DEMO_UTTERANCES:-2400}
steps=() # of both stages: the preset's own
if [ -n "${DEMO_STEPS:-}" ]; then steps=(--set "schedule.steps=$DEMO_STEPS" --set schedule.warmup=1); fi
began=$SECONDS

step() { printf '\n[%3d s] $ %s\n' "$((SECONDS - began))" "$*" >&2; "$@"; }

rm -rf "$out"
mkdir -p "$out"
step sm-pipeline demo-corpus "$corpus" --utterances "$utterances"
step sm-pipeline extract "$corpus/manifest.jsonl" --store "$store" \
    --encoder tiny-seamless --llm smollm2-135m --json | tee "$out/extract.json"

# The baseline is the projector as it starts.
step sm-train stage1 --store "$store" --preset demo --set schedule.steps=0 --out "$out/untrained"
# Our own objective, the preset's, and the paper's, which needs more steps.
step sm-train stage1 --store "$store" --preset demo "${steps[@]}" --out "$out/stage1"
paper=(--set objective.name=mse+cosine --set schedule.steps=1200 --set schedule.warmup=100)
step sm-train stage1 --store "$store" --preset demo "${paper[@]}" "${steps[@]}" --out "$out/stage1-paper"
step sm-train stage2 --store "$store" --preset demo --projector "$out/stage1" --llm smollm2-135m --task asr \
    "${steps[@]}" --out "$out/stage2"
step sm-train stage2 --store "$store" --preset demo --projector "$out/stage1-paper" --llm smollm2-135m --task asr \
    --set schedule.steps=20 "${steps[@]}" --out "$out/stage2-paper"

for run in untrained stage1 stage1-paper; do
    step sm-eval asr "$out/$run" --store "$store" --out "$out/eval/$run"
done
for run in stage1 stage1-paper stage2 stage2-paper; do
    name=$run
    if [[ $run == stage1* ]]; then name=$run-llm; fi
    step sm-eval asr "$out/$run" --store "$store" --llm smollm2-135m --max-new-tokens 40 --out "$out/eval/$name"
done

python "$here/results.py" "$out" "$((SECONDS - began))"
