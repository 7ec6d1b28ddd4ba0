"""What people said of recorded traffic, and what its recall is worth."""

from __future__ import annotations

from dataclasses import dataclass

_SHOWN = 5


@dataclass(frozen=True)
class Labelled:
    """Labels of recorded generations, as far as those were taken.

    Attributes:
        given: labels in the files.
        unknown: ids among them that the store does not have.
        not_taken: labels of generations that the store has and that were left out.
        harmful: generations labelled harmful. They count for recall, and for nothing else.
        flagged: of these, that a rule of this policy had flagged when they were recorded.
        outside: of these, that are not of the random sample of traffic: flagged ones, which a store always holds.
        outside_unflagged: of those, that no rule of this policy had flagged: recorded for another policy's sake.
        benign: generations of the sample labelled benign.
        unread: generations of the sample without a label; they count as benign.
    """

    given: int
    unknown: tuple[str, ...]
    not_taken: int
    harmful: int
    flagged: int
    outside: int
    outside_unflagged: int
    benign: int
    unread: int

    @property
    def shows_recall(self) -> bool:
        """Whether the share found of the harmful ones is that of traffic: all of the sample was read, and no others
        count. Else it is mostly too high, because what the policy flags is recorded, read and labelled first."""
        return not self.unread and not self.outside

    @property
    def shows_loss(self) -> bool:
        """Whether a share of the harmful ones that is too low has fallen for certain. Where some are there for another
        policy's sake it may just be low: these were missed when they were recorded."""
        return not self.outside_unflagged

    def notes(self) -> list[str]:
        """What a reader must know of the labels."""
        found = [
            f"Labels given: {self.given:,}. Harmful: {self.harmful:,}, which are no part of the benign sample. Of "
            f"that, {self.benign:,} generations are labelled benign, and {self.unread:,} are unread."
        ]
        if self.unknown:
            first = ", ".join(repr(name) for name in self.unknown[:_SHOWN])
            more = f" and {len(self.unknown) - _SHOWN:,} more" if len(self.unknown) > _SHOWN else ""
            found.append(f"The store does not have {len(self.unknown):,} of the labelled generations: {first}{more}.")
        if self.not_taken:
            found.append(f"Left out were {self.not_taken:,} of the labelled generations that it has.")
        if self.harmful and not self.shows_recall:
            too_low = (
                " Recorded for another policy's sake, from outside of the sample: "
                f"{self.outside_unflagged:,}; these may make them too low."
            )
            found.append(
                "Recall, ROC and AUROC are of the labelled generations, not of traffic, and mostly too high: this "
                f"policy had flagged {self.flagged:,} of the {self.harmful:,} harmful ones when they were recorded, "
                f"and what no rule flagged is hardly ever read.{too_low if self.outside_unflagged else ''} The policy "
                "file gets no recall from them."
            )
        return found
