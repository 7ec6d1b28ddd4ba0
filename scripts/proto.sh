#!/usr/bin/env bash
# Regenerates monitor/v1 from proto/monitor/v1. Needs the `dev` extra (grpcio-tools, mypy-protobuf) on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m grpc_tools.protoc -Iproto --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. proto/monitor/v1/*.proto
