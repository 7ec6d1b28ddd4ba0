"""The inner loop of the engine: rows x detectors, then rules. Compiled with numba, no Python objects.

Per request and detector the state is four numbers, so a row costs the same at any length of the request:

- value: the decayed sum (ema), the sum of the current block (rolling mean) or the maximum;
- weight: the decayed count, by which the ema's start is corrected;
- count: judged tokens;
- score: the aggregate as it stands.

The rolling mean is exact and never drifts: it splits the last `window` scores into the current block, summed as it
grows, and the tail of the block before, of which suffix sums are kept in the ring; nothing is ever subtracted.
"""

from __future__ import annotations

import math

from monitor.policy.jit import kernel

# numba reads module constants at compile time; they repeat tables.EMA, tables.ROLLING_MEAN and compiled.AND, OR, NOT.
_EMA, _ROLLING_MEAN = 0, 1
_AND, _OR, _NOT = -1, -2, -3
_CLEAR, _WARN, _FIRE = 1, 2, 3
#: Token classes and phases fit a mask of this many bits; codes beyond are never judged.
_MASK_BITS = 32


@kernel
def token_score(acts, columns, weights, first, last, is_max, bias):  # type: ignore[no-untyped-def]
    """Weighted sum or maximum of weight times activation, plus bias; NaN if an activation is NaN."""
    if is_max:
        best = -math.inf
        for k in range(first, last):
            term = weights[k] * acts[columns[k]]
            if math.isnan(term):
                return math.nan
            best = max(best, term)
        return best + bias
    total = 0.0
    for k in range(first, last):
        total += weights[k] * acts[columns[k]]
    return total + bias


@kernel
def aggregate(score, memory, ring, ints, floats):  # type: ignore[no-untyped-def]
    """Takes one token's score into the detector's memory and returns the new aggregate."""
    seen = int(memory[2])
    if ints[1] == _EMA:
        memory[0] = floats[1] * memory[0] + floats[2] * score
        memory[1] = floats[1] * memory[1] + floats[2]
        result = memory[0] / memory[1]
    elif ints[1] == _ROLLING_MEAN:
        window, start = ints[2], ints[3]
        at = seen % window
        memory[0] = score if at == 0 else memory[0] + score
        ring[start + at] = score
        total = memory[0]
        if seen >= window and at + 1 < window:
            total += ring[start + at + 1]
        if at + 1 == window:
            for k in range(start + window - 2, start - 1, -1):
                ring[k] += ring[k + 1]
        result = total / min(seen + 1, window)
    else:
        if seen == 0 or score > memory[0]:
            memory[0] = score
        result = memory[0]
    # `then: max` starts with the first aggregate that may leave clear: what came before is the cold start.
    if ints[4] and seen >= ints[5] and memory[3] > result:
        result = memory[3]
    memory[2] = seen + 1
    memory[3] = result
    return result


@kernel
def next_state(state, score, floats):  # type: ignore[no-untyped-def]
    """Hysteresis: fire holds down to `clear`, warn holds down to the lower of `warn` and `clear`."""
    if score >= floats[4] or (state == _FIRE and score >= floats[5]):
        return _FIRE
    if score >= floats[3] or (state != _CLEAR and score >= floats[6]):
        return _WARN
    return _CLEAR


@kernel
def holds(programs, first, last, states):  # type: ignore[no-untyped-def]
    """Evaluates a postfix program; the stack is the bits of one integer (a program has at most 62 terms)."""
    stack = 0
    for k in range(first, last):
        code = programs[k]
        if code == _NOT:
            stack ^= 1
        elif code == _AND:
            stack = (stack >> 2 << 1) | (stack & (stack >> 1) & 1)
        elif code == _OR:
            stack = (stack >> 2 << 1) | ((stack | (stack >> 1)) & 1)
        else:
            state, level = states[code >> 2], code & 3
            value = state == _CLEAR if level == _CLEAR else state >= level
            stack = (stack << 1) | (1 if value else 0)
    return stack & 1 == 1


@kernel
def advance_rows(  # type: ignore[no-untyped-def]
    acts_nk,
    slots_n,
    classes_n,
    phases_n,
    detectors,
    rules,
    state,
    judged_d,
    token_scores_nd,
    scores_nd,
    states_nd,
    fired_rows,
    fired_rules,
):
    """Judges rows in order and returns the number of firings written to `fired_rows` and `fired_rules`."""
    starts, columns, weights, ints_d8, floats_d7 = detectors
    program_starts, programs, detector_starts, named, rule_holds = rules
    memory_sd4, states_sd, rings_sw, held_sr, true_sr, true_count_s = state
    num_detectors, num_rules = ints_d8.shape[0], rule_holds.shape[0]
    fired = 0
    for n in range(slots_n.shape[0]):
        slot, token_class, phase = slots_n[n], classes_n[n], phases_n[n]
        in_mask = token_class < _MASK_BITS and phase < _MASK_BITS
        changed = False
        for d in range(num_detectors):
            ints, floats, memory = ints_d8[d], floats_d7[d], memory_sd4[slot, d]
            score = math.nan
            if in_mask and not (ints[6] >> token_class) & 1 and (ints[7] >> phase) & 1:
                score = token_score(acts_nk[n], columns, weights, starts[d], starts[d + 1], ints[0], floats[0])
            judged = math.isfinite(score)
            judged_d[d] = judged
            if judged:
                total = aggregate(score, memory, rings_sw[slot], ints, floats)
                if memory[2] >= ints[5]:
                    after = next_state(states_sd[slot, d], total, floats)
                    if after != states_sd[slot, d]:
                        states_sd[slot, d] = after
                        changed = True
            token_scores_nd[n, d] = score if judged else math.nan
            scores_nd[n, d] = memory[3] if memory[2] > 0 else math.nan
            states_nd[n, d] = states_sd[slot, d]
        if not changed and true_count_s[slot] == 0:
            continue
        true_count = 0
        for r in range(num_rules):
            if changed:
                true_sr[slot, r] = holds(programs, program_starts[r], program_starts[r + 1], states_sd[slot])
            if not true_sr[slot, r]:
                held_sr[slot, r] = 0
                continue
            true_count += 1
            for k in range(detector_starts[r], detector_starts[r + 1]):
                if judged_d[named[k]]:
                    held_sr[slot, r] += 1
                    if held_sr[slot, r] == rule_holds[r]:
                        fired_rows[fired], fired_rules[fired] = n, r
                        fired += 1
                    break
        true_count_s[slot] = true_count
    return fired
