"""How much of a known world an SAE has found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary
from training.synthetic.world import World, WorldRows

Floats = npt.NDArray[np.float32]
_CHUNK_ROWS = 4096
DUPLICATE_COSINE = 0.9


@dataclass(frozen=True)
class Score:
    """Figures between 0 and 1, except for the L0s and counts; means over features that fire in the rows at all.

    Attributes:
        feature_cosine: for each feature the cosine with the nearest decoder row of a living latent, on average ("mean
            max cosine similarity": is every feature found?).
        latent_cosine: for each living latent the cosine with the nearest feature, on average (is every latent real?).
        precision, recall, f1: of firing, after features and latents were matched one to one by cosine; a feature
            without a latent counts as 0.
        dead: latents that fire in none of the rows, as a share of all.
        duplicated: latents, as a share of the living ones, whose decoder row has a cosine above `DUPLICATE_COSINE`
            with that of an earlier one.
        absorption: of the rows in which a child fires (and so its parent) and the child's latent fires too, the share
            in which the parent's latent is silent, on average over the pairs (after arXiv 2409.14507); nan without
            hierarchies.
        missed_alone: the same without the child: the parent fires, no child does, its latent is silent. Absorption is
            what lies above this.
        l0, true_l0: latents and features that fire per row.
        fvu: fraction of variance unexplained.
    """

    feature_cosine: float
    latent_cosine: float
    precision: float
    recall: float
    f1: float
    dead: float
    duplicated: float
    absorption: float
    missed_alone: float
    l0: float
    true_l0: float
    fvu: float


def score(dictionary: Dictionary, world: World, rows: WorldRows) -> Score:
    """Scores a dictionary trained on the world's rows, on other rows of it.

    Raises:
        FeaturewatchError: the dictionary has another width, or no latent fires.
    """
    if dictionary.width != world.config.width:
        raise FeaturewatchError(
            f"SAE of width {dictionary.width}", f"the world has {world.config.width} dimensions", "train it on its rows"
        )
    fired_nm, squared_error = _fired(dictionary, rows.x_nd)
    living = np.flatnonzero(fired_nm.any(axis=0))
    if not len(living):
        raise FeaturewatchError(
            f"SAE of which none of {dictionary.num_latents} latents fires on {len(fired_nm):,} rows",
            "there is nothing to be scored",
            "train it for longer or with a smaller sparsity penalty",
        )
    truth_nf = rows.strength_nf > 0
    features = np.flatnonzero(truth_nf.any(axis=0))
    w_dec_ld = dictionary.w_dec_md[living]
    w_dec_ld = w_dec_ld / np.linalg.norm(w_dec_ld, axis=1, keepdims=True)
    cosine_fl = world.direction_fd[features] @ w_dec_ld.T
    latent_of = _matched(cosine_fl, features, living, world.config.features)
    precision_f, recall_f, f1_f = _firing(truth_nf, fired_nm, latent_of, features)
    absorption, missed_alone = _absorption(truth_nf, fired_nm, latent_of, world.parent_f)
    variance = float(np.square(rows.x_nd - rows.x_nd.mean(axis=0)).sum(dtype=np.float64))
    return Score(
        feature_cosine=float(cosine_fl.max(axis=1).mean()),
        latent_cosine=float(cosine_fl.max(axis=0).mean()),
        precision=float(precision_f.mean()),
        recall=float(recall_f.mean()),
        f1=float(f1_f.mean()),
        dead=1.0 - len(living) / dictionary.num_latents,
        duplicated=_duplicated(w_dec_ld),
        absorption=absorption,
        missed_alone=missed_alone,
        l0=float(fired_nm.sum() / len(fired_nm)),
        true_l0=float(truth_nf.sum() / len(truth_nf)),
        fvu=squared_error / variance,
    )


def _fired(dictionary: Dictionary, x_nd: Floats) -> tuple[npt.NDArray[np.bool_], float]:
    fired, squared_error = [], 0.0
    for start in range(0, len(x_nd), _CHUNK_ROWS):
        chunk_nd = x_nd[start : start + _CHUNK_ROWS]
        f_nm = dictionary.encode(chunk_nd)
        squared_error += float(np.square(dictionary.decode(f_nm) - chunk_nd).sum(dtype=np.float64))
        fired.append(f_nm > 0)
    return np.concatenate(fired), squared_error


def _matched(
    cosine_fl: Floats, features: npt.NDArray[np.int64], living: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """The latent of each feature [features of the world]: one to one, the largest sum of cosines; -1 for none."""
    feature_at, latent_at = linear_sum_assignment(cosine_fl, maximize=True)
    latent_of = np.full(count, -1, np.int64)
    latent_of[features[feature_at]] = living[latent_at]
    return latent_of


def _firing(
    truth_nf: npt.NDArray[np.bool_],
    fired_nm: npt.NDArray[np.bool_],
    latent_of: npt.NDArray[np.int64],
    features: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    precision_f, recall_f = np.zeros(len(features)), np.zeros(len(features))
    for at, feature in enumerate(features):
        if latent_of[feature] >= 0:
            truth_n, fired_n = truth_nf[:, feature], fired_nm[:, latent_of[feature]]
            hits = int((truth_n & fired_n).sum())
            precision_f[at], recall_f[at] = hits / max(int(fired_n.sum()), 1), hits / int(truth_n.sum())
    both_f = precision_f + recall_f
    return precision_f, recall_f, 2 * precision_f * recall_f / np.where(both_f > 0, both_f, 1)


def _absorption(
    truth_nf: npt.NDArray[np.bool_],
    fired_nm: npt.NDArray[np.bool_],
    latent_of: npt.NDArray[np.int64],
    parent_f: npt.NDArray[np.int64],
) -> tuple[float, float]:
    """Mean over the (parent, child) pairs with a latent each; nan where there are none."""
    absorbed, alone = [], []
    for child in np.flatnonzero(parent_f >= 0):
        parent = parent_f[child]
        if latent_of[child] < 0 or latent_of[parent] < 0:
            continue
        silent_n = ~fired_nm[:, latent_of[parent]]
        both_n = truth_nf[:, child] & fired_nm[:, latent_of[child]]
        lone_n = truth_nf[:, parent] & ~truth_nf[:, parent_f == parent].any(axis=1)
        if both_n.any() and lone_n.any():
            absorbed.append(float(silent_n[both_n].mean()))
            alone.append(float(silent_n[lone_n].mean()))
    return (float(np.mean(absorbed)), float(np.mean(alone))) if absorbed else (float("nan"), float("nan"))


def _duplicated(w_dec_ld: Floats) -> float:
    near_ll = np.triu(w_dec_ld @ w_dec_ld.T > DUPLICATE_COSINE, k=1)
    return float(near_ll.any(axis=0).mean())
