"""The inner loop of the engine: rows x detectors, then rules. Compiled with numba, no Python objects.

All state of one request lies in one row of numbers, in the order of `slots.SlotLayout`: what a row of activations reads
and writes is close together in memory, and a snapshot is a copy. Per detector these are eight numbers, so a row costs
the same at any length of the request. What an aggregate keeps in its `value` and `place`:

    ema            the average            its decayed count, 1 in the long run, which corrects the start
    rolling_mean   sum of the block       place in the ring of the last `window` scores
    max            the maximum
    count_over     tokens that counted    place in the ring of the last `window` bits
    cusum          the sum
    mean           the sum

The rolling mean never drifts: it splits the last `window` scores into the current block, summed as it grows, and the
tail of the block before, of which suffix sums are kept in the ring; nothing is ever subtracted.

Sums are taken in order, in float64 and without fast-math: LLVM may then neither reorder nor contract them, so that
results do not depend on where arrays lie in memory.
"""
# ruff: noqa: PLR0917 - kernels take arrays, not objects.

from __future__ import annotations

import math

import numpy as np

from monitor.policy.jit import kernel, part, prefetch

# These repeat `tables`, `slots` and `vocabulary`: the code that numba keeps on disk is renewed when this file changes,
# and would miss a change of a constant that it had taken from another file. For the same reason it is one file.
_SUM, _HIGHEST = 0, 1
_EMA, _ROLLING_MEAN, _MAX, _COUNT_OVER, _CUSUM = 0, 1, 2, 3, 4
_AND, _OR, _NOT = -1, -2, -3
_CLEAR, _WARN, _FIRE = 1, 2, 3
# Bits of a mask and of a ring that one number of a row holds.
_WORD, _WORD_SHIFT = 32, 5
# The columns of the detectors' tables.
_COMBINE, _LEAST, _KIND, _WINDOW, _RING, _THEN_MAX, _MIN_TOKENS = range(7)
_BIAS, _DECAY, _GAIN, _WARN_AT, _FIRE_AT, _CLEAR_AT, _RELEASE_AT, _BOUND = range(8)
# The numbers of a detector in a row.
_VALUE, _PLACE, _COUNT, _SCORE, _STATE, _PEAK, _PEAK_POSITION, _PEAK_STATE = range(8)
_PER_DETECTOR = 8
# Numbers of a line of the processor's cache.
_LINE = 8


@part
def token_score(acts_k, columns, weights, bounds, first, last, combine, least, bias):  # type: ignore[no-untyped-def]
    """Weighted sum, maximum, or 1 where enough terms are over their bounds and else 0. NaN where a term is not finite.

    Rounded to float32, which is what records hold: judged again from a record, a token has the same score. Adding zero
    makes the -0 that rounding may leave the 0 that it would be then.
    """
    total = -math.inf if combine == _HIGHEST else 0.0
    for k in range(first, last):
        term = weights[k] * acts_k[columns[k]]
        if not math.isfinite(term):
            return math.nan
        if combine == _SUM:
            total += term
        elif combine == _HIGHEST:
            total = max(total, term)
        elif term > bounds[k]:
            total += 1.0
    if combine > _HIGHEST:
        total = 1.0 if total >= least else 0.0
    return np.float64(np.float32(total + bias)) + 0.0


@part
def rolling_sum(row, at, ring, window, score):  # type: ignore[no-untyped-def]
    """Takes a score into a ring and returns the sum of the last `window` scores."""
    place = int(row[at + _PLACE])
    value = score if place == 0 else row[at + _VALUE] + score
    row[at + _VALUE] = value
    row[ring + place] = score
    total = value
    place += 1
    if place == window:
        place = 0
        for k in range(ring + window - 2, ring - 1, -1):
            row[k] += row[k + 1]
    elif row[at + _COUNT] >= window:
        total += row[ring + place]
    row[at + _PLACE] = place
    return total


@part
def rolling_count(row, at, ring, window, counts):  # type: ignore[no-untyped-def]
    """Takes into a ring of bits whether a token counts and returns how many of the last `window` do."""
    place = int(row[at + _PLACE])
    cell, bit = ring + (place >> _WORD_SHIFT), place & (_WORD - 1)
    bits = int(row[cell])
    counted = (bits >> bit) & 1 == 1
    if counts != counted:
        row[cell] = bits ^ (1 << bit)
        row[at + _VALUE] += 1.0 if counts else -1.0
    row[at + _PLACE] = 0 if place + 1 == window else place + 1
    return row[at + _VALUE]


@part
def aggregate(row, at, first_ring, ints_d7, floats_d8, d, score):  # type: ignore[no-untyped-def]
    """Takes one token's score into the numbers of a request's detector, from `at` on, and returns the new aggregate."""
    kind, count = ints_d7[d, _KIND], row[at + _COUNT]
    if kind == _EMA:
        decay, gain = floats_d8[d, _DECAY], floats_d8[d, _GAIN]
        weight = decay * row[at + _PLACE] + gain
        result = row[at + _VALUE] + (score - row[at + _VALUE]) * (gain / weight)
        row[at + _PLACE], row[at + _VALUE] = weight, result
    elif kind == _ROLLING_MEAN:
        window = ints_d7[d, _WINDOW]
        result = rolling_sum(row, at, first_ring + ints_d7[d, _RING], window, score) / min(count + 1.0, float(window))
    elif kind == _MAX:
        result = score if count == 0.0 else max(row[at + _VALUE], score)
        row[at + _VALUE] = result
    elif kind == _COUNT_OVER:
        result = rolling_count(
            row, at, first_ring + ints_d7[d, _RING], ints_d7[d, _WINDOW], score > floats_d8[d, _BOUND]
        )
    elif kind == _CUSUM:
        result = max(0.0, row[at + _VALUE] + score - floats_d8[d, _BOUND])
        row[at + _VALUE] = result
    else:
        row[at + _VALUE] += score
        result = row[at + _VALUE] / (count + 1.0)
    # `then: max` starts with the first aggregate that may leave clear: what came before is the cold start.
    if ints_d7[d, _THEN_MAX] and count >= ints_d7[d, _MIN_TOKENS]:
        result = max(result, row[at + _SCORE])
    row[at + _COUNT] = count + 1.0
    row[at + _SCORE] = result
    return result


@part
def next_state(state, score, floats_d8, d):  # type: ignore[no-untyped-def]
    """Hysteresis: fire holds down to `clear`, warn holds down to the lower of `warn` and `clear`."""
    warn = floats_d8[d, _WARN_AT] if state == _CLEAR else floats_d8[d, _RELEASE_AT]
    fire = floats_d8[d, _CLEAR_AT] if state == _FIRE else floats_d8[d, _FIRE_AT]
    # No bound for fire is below that for warn.
    return float(_CLEAR) + (score >= warn) + (score >= fire)


@part
def holds(programs, first, last, row, first_detector):  # type: ignore[no-untyped-def]
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
            state, level = row[first_detector + _PER_DETECTOR * (code >> 2) + _STATE], code & 3
            value = state == _CLEAR if level == _CLEAR else state >= level
            stack = (stack << 1) | (1 if value else 0)
    return stack & 1 == 1


@part
def advance_rules(n, rules, places, row, changed, judged_d, fired_f2, fired):  # type: ignore[no-untyped-def]
    """Advances the rules of one request by row `n`; returns the number of firings so far.

    A rule's number is -1 while its condition is false, else the tokens for which it has held, up to its `for`.
    """
    program_starts, programs, detector_starts, named, rule_holds = rules
    first_mask, first_rule, first_detector, _ = places
    pending = row[0]
    for r in range(rule_holds.shape[0]):
        if not (int(row[first_mask + (r >> _WORD_SHIFT)]) >> (r & (_WORD - 1))) & 1:
            continue
        held, hold = row[first_rule + r], rule_holds[r]
        if changed:
            if not holds(programs, program_starts[r], program_starts[r + 1], row, first_detector):
                pending -= 1.0 if 0.0 <= held < hold else 0.0
                held = -1.0
            elif held < 0.0:
                pending += 1.0
                held = 0.0
        if 0.0 <= held < hold:
            for k in range(detector_starts[r], detector_starts[r + 1]):
                if judged_d[named[k]]:
                    held += 1.0
                    if held == hold:
                        pending -= 1.0
                        fired_f2[fired, 0], fired_f2[fired, 1] = n, r
                        fired += 1
                    break
        row[first_rule + r] = held
    row[0] = pending
    return fired


@part
def advance_detector(row, at, first_ring, ints_d7, floats_d8, d, score, position):  # type: ignore[no-untyped-def]
    """Takes one token's score; returns whether the detector's state changed."""
    total = aggregate(row, at, first_ring, ints_d7, floats_d8, d, score)
    # True for the first total too: the peak is NaN before it.
    if not total <= row[at + _PEAK]:
        row[at + _PEAK], row[at + _PEAK_POSITION] = total, position
    if row[at + _COUNT] < ints_d7[d, _MIN_TOKENS]:
        return False
    before = row[at + _STATE]
    after = next_state(before, total, floats_d8, d)
    if after == before:
        return False
    row[at + _STATE] = after
    row[at + _PEAK_STATE] = max(row[at + _PEAK_STATE], after)
    return True


@part
def ask_for(next_row, after_next, at, first_ring, ints_d7, d):  # type: ignore[no-untyped-def]
    """Asks for a detector's numbers of the row behind the next, and for the entry of its ring that the next row needs,
    whose place is known by then. With many live requests their state lies in main memory, and most of the time would go
    into waiting for it."""
    prefetch(after_next, at)
    kind, ring = ints_d7[d, _KIND], first_ring + ints_d7[d, _RING]
    if kind == _ROLLING_MEAN:
        prefetch(next_row, ring + int(next_row[at + _PLACE]))
    elif kind == _COUNT_OVER:
        prefetch(next_row, ring + (int(next_row[at + _PLACE]) >> _WORD_SHIFT))


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
    places,
    state_sf,
    judged_d,
    token_scores_nd,
    scores_nd,
    states_nd,
    fired_f2,
    snapshots_mf,
):
    """Judges rows in order and returns the number of firings (row, rule) written to `fired_f2`.

    After row n the state of its slot goes to ``snapshots_mf[save_n[n]]``, unless that is -1; an empty `save_n` saves
    nothing.
    """
    starts, columns, weights, bounds, ints_d7, floats_d8, judges_cpw = detectors
    _, _, first_detector, first_ring = places
    saves = save_n.shape[0] > 0
    last_n = slots_n.shape[0] - 1
    fired = 0
    for n in range(slots_n.shape[0]):
        row, acts_k = state_sf[slots_n[n]], acts_nk[n]
        next_row, after_next = state_sf[slots_n[min(n + 1, last_n)]], state_sf[slots_n[min(n + 2, last_n)]]
        for f in range(0, first_detector, _LINE):
            prefetch(after_next, f)
        # The last class and the last phase of the table stand for all that it does not know: nothing judges those.
        known = min(classes_n[n], judges_cpw.shape[0] - 1), min(phases_n[n], judges_cpw.shape[1] - 1)
        changed = False
        for d in range(ints_d7.shape[0]):
            at, word = first_detector + _PER_DETECTOR * d, d >> _WORD_SHIFT
            ask_for(next_row, after_next, at, first_ring, ints_d7, d)
            score = math.nan
            if ((int(row[1 + word]) & judges_cpw[known[0], known[1], word]) >> (d & (_WORD - 1))) & 1:
                first, last = starts[d], starts[d + 1]
                combine, least, bias = ints_d7[d, _COMBINE], ints_d7[d, _LEAST], floats_d8[d, _BIAS]
                score = token_score(acts_k, columns, weights, bounds, first, last, combine, least, bias)
            judged = math.isfinite(score)
            judged_d[d] = judged
            if judged:
                changed |= advance_detector(row, at, first_ring, ints_d7, floats_d8, d, score, positions_n[n])
            token_scores_nd[n, d] = score if judged else math.nan
            scores_nd[n, d] = row[at + _SCORE]
            states_nd[n, d] = row[at + _STATE]
        # While no state changed and no true condition waits for its `for` there is nothing for a rule to do.
        if changed or row[0] > 0.0:
            fired = advance_rules(n, rules, places, row, changed, judged_d, fired_f2, fired)
        if saves and save_n[n] >= 0:
            line = save_n[n]
            for f in range(state_sf.shape[1]):
                snapshots_mf[line, f] = row[f]
    return fired
