#!/usr/bin/env bash
# Measures AVicuna on one GPU in at most 9 minutes: training at 7B, questions at 7B, feature extraction, and whether the
# published form of training learns the sandbox. Each part writes one JSON file; a part that fails does not end the others.
#
#     bash benchmarks/on_gpu.sh OUTPUT_FOLDER [MEDIA_FOLDER]     # MEDIA_FOLDER: clips for feature extraction
#     DEVICE=cpu SIZE=tiny bash benchmarks/on_gpu.sh FOLDER      # trial run of every part, some minutes
#
# PARTS selects parts: "training queries features learning" by default; "four_bit" needs bitsandbytes and "liger" needs
# liger-kernel and a GPU; "prepare" is what "learning" begins with. LEARNING_SECONDS is the length of stage III. The
# machine needs no internet: benchmarks/on_gpu_wheels.txt lists the packages beside PyTorch.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
output=$(realpath -m "$1"); media=${2:-}
device=${DEVICE:-cuda}; size=${SIZE:-7b}; parts=${PARTS:-training queries features learning}
python=${PYTHON:-python3}
work=${WORK:-}  # a folder to keep between calls, for a machine that is called twice
if [ -z "$work" ]; then work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
export HF_DATASETS_CACHE="$work/datasets" PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
mkdir -p "$output"

trial=(); learning=(--num-workers 12 --batch-size 64 --seconds "${LEARNING_SECONDS:-25}"); most=540
if [ "$device" = cpu ]; then learning=(--num-workers 0 --seconds 1 --steps-per-second 4 --batch-size 4); most=7200; fi

part() {  # name, seconds at most (less where the 9 minutes end before), module, options
    local name=$1 limit=$2; shift 2
    case " $parts " in *" $name "*) ;; *) return ;; esac
    local began=$SECONDS status=0 left=$((most - SECONDS))
    [ "$left" -ge 10 ] || { echo "$name: not begun, its time is over"; return; }
    [ "$limit" -le "$left" ] || limit=$left
    taskset -c "$cores" timeout -k 5 "$limit" "$python" -m "$@" >> "$output/$name.log" 2>&1 || status=$?
    echo "$name: status $status, $((SECONDS - began)) s"
    [ $status = 0 ] || tail -n 8 "$output/$name.log"
}

# on the other half of the cores while the GPU trains the large model
half=$((($(nproc) + 1) / 2)); ours="0-$((half - 1))"; others=$(($(nproc) > 1 ? half : 0))-$(($(nproc) - 1))
case " $parts " in *" prepare "* | *" learning "*)
    taskset -c "$others" timeout "$most" "$python" -m benchmarks.gpu_learning --action prepare --folder "$work/learning" \
        --num-processes "$half" > "$output/prepare.log" 2>&1 &
esac

if [ "$device" = cpu ]; then trial=(--steps 1 --batch-size 2 --large-batch-size 3); fi
cores=$ours
part training 200 benchmarks.gpu_training --device "$device" --size "$size" "${trial[@]}" --output "$output/training.json"
part liger 100 benchmarks.gpu_training --device "$device" --size "$size" "${trial[@]}" --liger true \
    --output "$output/training_liger.json"
if [ "$device" = cpu ]; then trial=(--minutes 0.1 --num-queries 4 --num-separate 2 --batch-sizes 4 --rounds 1); fi
part queries 130 benchmarks.gpu_queries --device "$device" --size "$size" "${trial[@]}" --output "$output/queries.json"
part four_bit 150 benchmarks.gpu_queries --device "$device" --size "$size" "${trial[@]}" --four-bit true \
    --output "$output/queries_4bit.json"
part liger 130 benchmarks.gpu_queries --device "$device" --size "$size" "${trial[@]}" --liger true \
    --output "$output/queries_liger.json"
wait
cores=0-$(($(nproc) - 1))
if [ "$device" = cpu ]; then trial=(--num-clips 2 --rounds 1); else trial=(--num-clips 64 --rounds 1); fi
part features 90 benchmarks.feature_extraction --device "$device" --size "$size" "${trial[@]}" ${media:+--media-dir "$media"} \
    --num-workers "$(nproc)" --output "$output/features.json"
part learning 380 benchmarks.gpu_learning --action train --device "$device" --folder "$work/learning" "${learning[@]}" \
    --output "$output/learning.json"
ls -l "$output"
