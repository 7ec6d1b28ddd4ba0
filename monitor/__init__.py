"""Featurewatch online: the tap in the vLLM worker, the sidecar, policies, alerts and the audit.

Packages, and what may import what (never against the arrow):

    tap -> {sae, rpc}        sidecar -> {policy, emit, audit, sae, rpc}        cli -> everything

`policy` is pure: no I/O, no clock, no torch. `v1` holds the generated protobuf code of `proto/monitor/v1`.
"""

__version__ = "0.1.0"
