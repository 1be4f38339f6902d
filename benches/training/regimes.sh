#!/usr/bin/env bash
# Whether the polarizer brings collapsed layers back to work better than the same optimizer without it: runs from
# checkpoints of a collapse, each with its perplexity on a text that no run has seen.
#
#     CKPT=target/release/ckpt DATA='FOLDER/*.py' HELD=TEXT TOKENIZER=tokenizer.json OUT=FOLDER \
#         benches/training/regimes.sh START.pt...
#
# STEPS (2000), LENGTH (128), SEEDS ("1 2") and JOBS (one for each processor) change what is run.
set -euo pipefail

one() {
    local start=$1 method=$2 rate=$3 batch=$4 seed=$5 name more=() base
    name=$(basename "$start" .pt).$method.$rate.batch$batch.seed$seed
    base=$("$CKPT" inspect --no-stats --format json "$start" | sed -n 's/^ *"step": \([0-9]*\),$/\1/p' | head -1)
    case $method in muon*) more=(--ternary-weight-decay 0) ;; esac
    RAYON_NUM_THREADS=1 "$CKPT" train --resume "$start" --reset-optimizer --allow-collapsed --tokenizer "$TOKENIZER" --data "$DATA" \
        --batch "$batch" --length "${LENGTH:-128}" --steps $((base + ${STEPS:-2000})) --save-every "${STEPS:-2000}" --seed "$seed" \
        --optimizer "$method" --lr "$rate" "${more[@]}" --no-token-cache -o "$OUT/$name" >"$OUT/$name.log" 2>&1
    last=$(find "$OUT/$name" -name 'step-*.pt' | sort | tail -1)
    echo "$name $(RAYON_NUM_THREADS=1 "$CKPT" infer "$last" --tokenizer "$TOKENIZER" --perplexity "$HELD" 2>/dev/null | head -1)"
}
export -f one
export CKPT DATA HELD TOKENIZER OUT
mkdir -p "$OUT"
for seed in ${SEEDS:-1 2}; do
    for start in "$@"; do
        for run in "adamw 1e-3 8" "polarized-adamw 1e-3 8" "adamw 1e-4 1" "polarized-adamw 1e-4 1" \
            "muon 0.02 8" "polarized-muon 0.02 8" "muon-adamw 0.02 8"; do
            echo "$start $run $seed"
        done
    done
done | xargs -P "${JOBS:-$(nproc)}" -I{} bash -c 'one {}' | tee "$OUT/results.txt"
