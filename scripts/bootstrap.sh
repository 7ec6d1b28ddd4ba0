#!/usr/bin/env bash
# Makes .venv with everything that `make demo` and `make test` need. Does nothing when it is up to date.
#   ENGINE=cpu|cuda   which vLLM to install (default: cuda when nvidia-smi finds a GPU, else cpu)
#   PYTHON=python3.11 which Python to use
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

engine=${ENGINE:-}
if [ -z "$engine" ]; then
  if nvidia-smi >/dev/null 2>&1; then engine=cuda; else engine=cpu; fi
fi

wanted=$(cat requirements/cpu.lock pyproject.toml scripts/bootstrap.sh | sha256sum | cut -d' ' -f1)-$engine
[ "$(cat .venv/.bootstrapped 2>/dev/null)" = "$wanted" ] && exit 0

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3.11 python3.12 python3; do
    if command -v "$candidate" >/dev/null; then python=$candidate; break; fi
  done
fi
[ -n "$python" ] || die "no python3 found: featurewatch needs Python 3.11 or newer; install it or set PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || die "$("$python" --version): featurewatch needs Python 3.11 or newer; set PYTHON to one"
# Debian keeps venv's pip apart from Python itself.
"$python" -c 'import ensurepip' 2>/dev/null || scripts/system-packages.sh python3-venv

started=$(date +%s)
say "Setting up .venv for the $engine engine with $("$python" --version) (once; a few minutes)"
"$python" -m venv .venv
pip=".venv/bin/python -m pip"
export PIP_DISABLE_PIP_VERSION_CHECK=1
if [ "$engine" = cuda ]; then
  $pip install --quiet --editable '.[cuda,training,demo,dev]'
else
  # The CPU build where pip can find it (set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheel index, see pytorch.org);
  # else the standard build, which also runs on a CPU but is several GB larger.
  if ! $pip install --quiet --no-deps 'torch==2.13.0+cpu' 2>/dev/null; then
    say "No CPU build of torch 2.13.0 in pip's indexes: taking the standard build (several GB)"
    $pip install --quiet 'torch==2.13.0'
  fi
  # vLLM's CPU kernels are linked against libnuma.
  .venv/bin/python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || scripts/system-packages.sh libnuma1
  $pip install --quiet --no-deps --requirement requirements/cpu.lock
  $pip install --quiet --no-deps --no-build-isolation --editable .
fi
echo "$wanted" > .venv/.bootstrapped
say "Set up in $(($(date +%s) - started)) s"
