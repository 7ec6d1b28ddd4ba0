"""Policies that together use every field and choice of the format; `policy_samples.FakeSources` has their sources."""

from __future__ import annotations

from policy_samples import GOOD

COUNTING = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: counting, revision: 2, status: stable, references: ["https://example.org/paper", TICKET-1]}
spec:
  mode: shadow
  detectors:
    - id: few
      source:
        saeLatents:
          sae: tiny/resid_post.14
          latents: [{label: weapons, over: 0.5}, {index: 2, weight: -1, over: -2e-1}, {index: 3}]
          combine: k_of_n
          k: 2
      aggregate: {kind: count_over, window: 8, over: 0.5, then: max}
      threshold: {fire: 3}
    - id: some
      source: {saeLatents: {sae: tiny/resid_post.14, latents: [{index: 1, over: 3}], combine: any}}
      aggregate: {kind: cusum, drift: 0.1, skip: []}
      threshold: {fire: 6, clear: 2}
      calibration: {targetFpr: 0.01, benign: a, n: 500, hits: 0, harmful: b, recall: 0.5, date: 2026-02-28}
    - id: every
      source: {saeLatents: {sae: tiny/resid_post.9, latents: [{index: 1}, {label: lies}], combine: all}}
      aggregate: {kind: mean, skip: [bos]}
      threshold: {fire: 0.5, warn: 0.25}
    - id: most
      source: {saeLatents: {sae: tiny/resid_post.9, latents: [{index: 5, weight: 2}], combine: max}}
      aggregate: {kind: ema, halfLife: 2.5}
      threshold: {fire: 1}
  rules:
    - {id: COUNT-1, when: few.fire or some.warn, severity: informational}
    - {id: COUNT-2, when: not (every.clear and most.clear), for: 999999 tokens, severity: medium}
"""

SERVING = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: serving, revision: 4294967295, status: deprecated, description: "where it holds\\nand where not"}
spec:
  mode: enforce
  match: {models: [tiny, "*-it"], tenants: [acme, "b*"], phases: [reasoning, response], sample: 0.25}
  fittedOn:
    model: tiny
    revision: 0123abc
    dtype: bfloat16
    quantization: none
    kvCacheDtype: auto
    vllm: "0.32"
    sae: sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    hook: resid_post.14
  detectors:
    - id: probe
      source: {saeProbe: {file: weights/harm.sae.safetensors}}
      aggregate: {kind: max}
      threshold: {fire: 1}
  rules:
    - {id: SERVE-1, when: probe.fire, severity: critical}
  onUnseen: reread
  onDrop: {threshold: 0.01, actions: [alert, log]}
"""

ANSWERS = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: answers, revision: 1, status: experimental}
spec:
  mode: "off"
  fittedOn: {dtype: float16}
  detectors:
    - id: probe
      source: {denseProbe: {file: weights/harm.dense.safetensors}}
      aggregate: {kind: max}
      threshold: {fire: 1}
  rules:
    - id: ANSWER-1
      when: probe.fire
      severity: high
      actions: [alert, capture]
      deadlineMs: 50
      onTimeout: alert
      exceptions:
        - name: red-team
          match: {tenants: ["red-*"], models: ["*"], adapters: [lora-a]}
          reason: approved exercise
          owner: j.doe
          expires: 2027-01-31
        - {name: canary, match: {adapters: [lora-b]}, reason: a test, owner: j.doe, expires: 2028-02-29}
    - {id: ANSWER-2, when: probe.warn, severity: low, deadlineMs: 600000, onTimeout: continue}
  correlations:
    - {id: MANY, kind: count, rules: [ANSWER-1, ANSWER-2], within: 10m, atLeast: 5, severity: high, actions: [alert]}
    - id: VARIED
      kind: distinct
      rules: [ANSWER-1]
      groupBy: [tenant, adapter, tap, model]
      within: 1d
      atLeast: 2
      of: generation
      severity: high
    - {id: OF-RULE, kind: distinct, rules: [ANSWER-1], within: 1h, atLeast: 2, of: rule, severity: low}
    - {id: OF-T, kind: distinct, rules: [ANSWER-1], groupBy: [], within: 2s, atLeast: 2, of: tenant, severity: critical}
    - {id: OF-MODEL, kind: distinct, rules: [ANSWER-1], within: 9h, atLeast: 2, of: model, severity: informational}
    - {id: ONE-THEN-TWO, kind: ordered, rules: [ANSWER-1, ANSWER-2], within: 30s, severity: medium}
  notify: {groupBy: [rule, severity, tenant, model, tap], wait: 10s, interval: 1m, repeat: 12h}
  record: {content: full}
  onUnseen: accept
"""

#: GOOD first: it uses nothing that is younger than the first version.
SEEDS = {"good": GOOD, "counting": COUNTING, "serving": SERVING, "answers": ANSWERS}
