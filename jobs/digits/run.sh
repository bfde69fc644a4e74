#!/usr/bin/env bash
# Connected digits, real speech on a laptop: corpus, features, both stages by our recipe and the paper's, and a report.
#   git clone https://github.com/Jakobovski/free-spoken-digit-dataset
#   bash jobs/digits/run.sh free-spoken-digit-dataset OUT       OUT/report.html and OUT/report.md show what was reached
# Run again, it continues. DIGITS_ENCODER, DIGITS_LAYER, DIGITS_LLM, DIGITS_STEPS and DIGITS_CORPUS (arguments of
# make_corpus.py) replace parts of it.
set -euo pipefail
fsdd=${1:?name a clone of free-spoken-digit-dataset} out=${2:?name the folder to write to}
here=$(dirname "$0") store=$out/store llm=${DIGITS_LLM:-smollm2-135m}
config=(--config "$here/digits.yaml" --resume)
if [ -n "${DIGITS_STEPS:-}" ]; then config+=(--set "schedule.steps=$DIGITS_STEPS" --set schedule.warmup=0); fi

step() { printf '\n$ %s\n' "$*" >&2; "$@"; }

mkdir -p "$out"
if [ ! -f "$out/corpus/manifest.jsonl" ]; then # written last
    # shellcheck disable=SC2086  # several arguments
    step python "$here/make_corpus.py" --fsdd "$fsdd" --out "$out/corpus" ${DIGITS_CORPUS:-}
fi
step sm-pipeline extract "$out/corpus/manifest.jsonl" --store "$store" --targets table --llm "$llm" \
    --encoder "${DIGITS_ENCODER:-openai/whisper-base?padding=none}" --layer "${DIGITS_LAYER:-6}"

# Our recipe with fewer sampled rows, and the paper's objective with a weight of the cosine that suits these sizes.
step sm-train stage1 --store "$store" --preset best "${config[@]}" --set objective.negatives=2000 --out "$out/best/stage1"
step sm-train stage1 --store "$store" "${config[@]}" --set objective.name=mse+cosine --set objective.cosine_weight=10 \
    --out "$out/paper/stage1"

reports=()
for recipe in best paper; do
    step sm-train stage2 --store "$store" --projector "$out/$recipe/stage1" --llm "$llm" "${config[@]}" \
        --out "$out/$recipe/stage2"
    for split in dev test; do # dev: the speakers of train, other recordings; test: the held-out speaker
        for read in stage1-nearest stage1-llm stage2-llm; do
            reader=()
            if [[ $read == *-llm ]]; then reader=(--llm "$llm" --max-new-tokens 60); fi
            [ -f "$out/eval/$recipe-$read-$split/metrics.json" ] ||
                step sm-eval asr "$out/$recipe/${read%-*}" --store "$store" --split "$split" "${reader[@]}" \
                    --out "$out/eval/$recipe-$read-$split"
            reports+=("$recipe-$read-$split=$out/eval/$recipe-$read-$split")
        done
    done
done
step sm-eval report "${reports[@]}" --manifest "$out/corpus/manifest.jsonl" --html "$out/report.html" \
    --markdown "$out/report.md"
