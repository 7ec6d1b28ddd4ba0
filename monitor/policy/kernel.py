"""The inner loop of the engine: rows x detectors, then rules. Compiled with numba, no Python objects.

Per request and detector the state is four numbers, so a row costs the same at any length of the request:

- value: the average (ema), the sum of the current block (rolling mean) or the maximum;
- weight: the ema's decayed count, 1 in the long run, which corrects its start;
- count: judged tokens;
- score: the aggregate as it stands.

Three more keep the highest score so far, its position, and the highest state.

The rolling mean never drifts: it splits the last `window` scores into the current block, summed as it grows, and the
tail of the block before, of which suffix sums are kept in the ring; nothing is ever subtracted.
"""
# ruff: noqa: PLR0917 - kernels take arrays, not objects.

from __future__ import annotations

import math

from monitor.policy.jit import kernel

# These repeat `tables` and `vocabulary`: the code that numba keeps on disk is renewed when this file changes, and would
# miss a change of a constant that it had taken from another file.
_EMA, _ROLLING_MEAN = 0, 1
_AND, _OR, _NOT = -1, -2, -3
_CLEAR, _WARN, _FIRE = 1, 2, 3
# Classes and phases are bits of a mask this wide; codes beyond are never judged.
_MASK_BITS = 32


@kernel
def token_score(acts_nk, n, columns, weights, first, last, is_max, bias):  # type: ignore[no-untyped-def]
    """Weighted sum or maximum of weight times activation, plus bias; NaN if an activation is NaN."""
    if is_max:
        best = -math.inf
        for k in range(first, last):
            term = weights[k] * acts_nk[n, columns[k]]
            if math.isnan(term):
                return math.nan
            best = max(best, term)
        return best + bias
    total = 0.0
    for k in range(first, last):
        total += weights[k] * acts_nk[n, columns[k]]
    return total + bias


@kernel
def aggregate(score, memory_sd4, rings_sw, slot, d, ints_d8, floats_d7):  # type: ignore[no-untyped-def]
    """Takes one token's score into the memory of a request's detector and returns the new aggregate."""
    value, weight, count, before = (
        memory_sd4[slot, d, 0],
        memory_sd4[slot, d, 1],
        memory_sd4[slot, d, 2],
        memory_sd4[slot, d, 3],
    )
    kind = ints_d8[d, 1]
    if kind == _EMA:
        weight = floats_d7[d, 1] * weight + floats_d7[d, 2]
        value += (score - value) * (floats_d7[d, 2] / weight)
        result = value
    elif kind == _ROLLING_MEAN:
        window, start = ints_d8[d, 2], ints_d8[d, 3]
        at = int(count) % window
        value = score if at == 0 else value + score
        rings_sw[slot, start + at] = score
        total = value
        if count >= window and at + 1 < window:
            total += rings_sw[slot, start + at + 1]
        if at + 1 == window:
            for k in range(start + window - 2, start - 1, -1):
                rings_sw[slot, k] += rings_sw[slot, k + 1]
        result = total / min(count + 1, window)
    else:
        value = score if count == 0 else max(value, score)
        result = value
    # `then: max` starts with the first aggregate that may leave clear: what came before is the cold start.
    if ints_d8[d, 4] and count >= ints_d8[d, 5]:
        result = max(result, before)
    memory_sd4[slot, d, 0] = value
    memory_sd4[slot, d, 1] = weight
    memory_sd4[slot, d, 2] = count + 1
    memory_sd4[slot, d, 3] = result
    return result


@kernel
def next_state(state, score, floats_d7, d):  # type: ignore[no-untyped-def]
    """Hysteresis: fire holds down to `clear`, warn holds down to the lower of `warn` and `clear`."""
    if score >= floats_d7[d, 4] or (state == _FIRE and score >= floats_d7[d, 5]):
        return _FIRE
    if score >= floats_d7[d, 3] or (state != _CLEAR and score >= floats_d7[d, 6]):
        return _WARN
    return _CLEAR


@kernel
def holds(programs, first, last, states_d):  # type: ignore[no-untyped-def]
    """Evaluates a postfix program; its stack is the bits of one integer (`when.MAX_TERMS` keeps it within 64)."""
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
            state, level = states_d[code >> 2], code & 3
            value = state == _CLEAR if level == _CLEAR else state >= level
            stack = (stack << 1) | (1 if value else 0)
    return stack & 1 == 1


@kernel
def advance_rules(n, rules, states_d, changed, judged_d, held_r, true_r, fired, fired_rows, fired_rules):  # type: ignore[no-untyped-def]
    """Advances the rules of one request by row `n`; returns the number of true conditions and of firings so far."""
    program_starts, programs, detector_starts, named, rule_holds = rules
    true_count = 0
    for r in range(rule_holds.shape[0]):
        if changed:
            true_r[r] = holds(programs, program_starts[r], program_starts[r + 1], states_d)
        if not true_r[r]:
            held_r[r] = 0
            continue
        true_count += 1
        for k in range(detector_starts[r], detector_starts[r + 1]):
            if judged_d[named[k]]:
                held_r[r] += 1
                if held_r[r] == rule_holds[r]:
                    fired_rows[fired], fired_rules[fired] = n, r
                    fired += 1
                break
    return true_count, fired


@kernel
def note_peak(peak_3, score, state, position, is_first):  # type: ignore[no-untyped-def]
    """Keeps a detector's highest score with the first position that had it, and its highest state."""
    if is_first or score > peak_3[0]:
        peak_3[0], peak_3[1] = score, position
    peak_3[2] = max(peak_3[2], state)


@kernel
def save_slot(state, slot, snapshot_f):  # type: ignore[no-untyped-def]
    """Writes all of a slot's state into one row of numbers, in the order of `snapshots.SnapshotLayout`."""
    memory_sd4, peaks_sd3, states_sd, rings_sw, held_sr, true_sr, _, _ = state
    at = 0
    for d in range(memory_sd4.shape[1]):
        for k in range(4):
            snapshot_f[at + k] = memory_sd4[slot, d, k]
        at += 4
    for d in range(peaks_sd3.shape[1]):
        for k in range(3):
            snapshot_f[at + k] = peaks_sd3[slot, d, k]
        at += 3
    for d in range(states_sd.shape[1]):
        snapshot_f[at] = states_sd[slot, d]
        at += 1
    for w in range(rings_sw.shape[1]):
        snapshot_f[at] = rings_sw[slot, w]
        at += 1
    for r in range(held_sr.shape[1]):
        snapshot_f[at] = held_sr[slot, r]
        at += 1
    for r in range(true_sr.shape[1]):
        snapshot_f[at] = true_sr[slot, r]
        at += 1


@kernel
def advance_rows(  # type: ignore[no-untyped-def]
    acts_nk,
    slots_n,
    classes_n,
    phases_n,
    positions_n,
    save_n,
    detectors,
    rules,
    state,
    judged_d,
    token_scores_nd,
    scores_nd,
    states_nd,
    fired_rows,
    fired_rules,
    snapshots_mf,
):
    """Judges rows in order and returns the number of firings written to `fired_rows` and `fired_rules`.

    After row n the state of its slot goes to ``snapshots_mf[save_n[n]]``, unless that is -1; an empty `save_n` saves
    nothing.
    """
    starts, columns, weights, ints_d8, floats_d7 = detectors
    memory_sd4, peaks_sd3, states_sd, rings_sw, held_sr, true_sr, true_count_s, watched_sd = state
    saves = save_n.shape[0] > 0
    fired = 0
    for n in range(slots_n.shape[0]):
        slot, token_class, phase = slots_n[n], classes_n[n], phases_n[n]
        in_mask = token_class < _MASK_BITS and phase < _MASK_BITS
        changed = False
        for d in range(ints_d8.shape[0]):
            score = math.nan
            wanted = in_mask and watched_sd[slot, d]
            if wanted and not (ints_d8[d, 6] >> token_class) & 1 and (ints_d8[d, 7] >> phase) & 1:
                is_max, bias = ints_d8[d, 0], floats_d7[d, 0]
                score = token_score(acts_nk, n, columns, weights, starts[d], starts[d + 1], is_max, bias)
            judged = math.isfinite(score)
            judged_d[d] = judged
            if judged:
                total = aggregate(score, memory_sd4, rings_sw, slot, d, ints_d8, floats_d7)
                if memory_sd4[slot, d, 2] >= ints_d8[d, 5]:
                    after = next_state(states_sd[slot, d], total, floats_d7, d)
                    if after != states_sd[slot, d]:
                        states_sd[slot, d] = after
                        changed = True
                is_first = memory_sd4[slot, d, 2] == 1
                note_peak(peaks_sd3[slot, d], total, states_sd[slot, d], positions_n[n], is_first)
            token_scores_nd[n, d] = score if judged else math.nan
            scores_nd[n, d] = memory_sd4[slot, d, 3] if memory_sd4[slot, d, 2] > 0 else math.nan
            states_nd[n, d] = states_sd[slot, d]
        # While every condition is false and no state changed there is nothing for a rule to do.
        if changed or true_count_s[slot] > 0:
            true_count_s[slot], fired = advance_rules(
                n,
                rules,
                states_sd[slot],
                changed,
                judged_d,
                held_sr[slot],
                true_sr[slot],
                fired,
                fired_rows,
                fired_rules,
            )
        if saves and save_n[n] >= 0:
            save_slot(state, slot, snapshots_mf[save_n[n]])
    return fired
