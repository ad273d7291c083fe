"""What a classifier says of its own training images after each epoch, and the epoch at which that is steadiest.

Notation (ours):
    F_e    flagged after epoch e: the images whose label gets less than even odds
    a_e    how far epoch e and the next agree: |F_e ∩ F_e+1| / (|F_e ∪ F_e+1| + FEW), where f_B explains all but
           MOST_FLAGGED of the images after both, else nothing; FEW keeps a handful of flags from agreeing by chance
    s_e    |F_e ∩ F_e+1| - |F_e △ F_e+1|: the images that two epochs agree to flag, less those that one of them flags

While f_B learns the shortcut F_e shrinks fast; then it stands still, for as long as the images that break the
pattern are not learnt by heart; then it goes on shrinking. Of one network the epoch of the highest a_e is taken, of
several networks the one whose s_e is highest there: a network that sees the shortcut flags many images, and stands by
them. No bias label has a part in a run. The rule itself was picked among eight with six planted kinds on digits in
sight (seeds 0 and 1), so its figures on these are not held back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import score
from debias_core.compute import ranks
from debias_core.data.table import ImageTable
from debias_core.records import Scores

MOST_FLAGGED = 0.3  # share of the images; with more of them f_B has learnt nothing yet
FEW = 10  # images
PATIENCE = 5  # epochs after the steadiest one


def agreement(flagged: NDArray[np.bool_]) -> NDArray[np.float64]:
    """a_e [E - 1] of the flags [E, N] after each epoch; -1 where too many are flagged."""
    now, after = flagged[:-1], flagged[1:]
    a = (now & after).sum(1) / ((now | after).sum(1) + FEW)
    learnt = (now.mean(1) <= MOST_FLAGGED) & (after.mean(1) <= MOST_FLAGGED)
    return np.where(learnt, a, -1.0)


@dataclass
class Views:
    """The `enough` of a training (`train_classifier`): finds the steadiest epoch, and keeps its scores and its net.

    In `folder`, where one is given, every epoch's scores outlive the process; in memory are those of the steadiest
    epoch and of the last. `done` is how many epochs the training has finished, which whoever drains it keeps up to
    date.
    """

    train: ImageTable
    device: torch.device
    folder: Path | None
    done: int = 0
    scores: list[Scores | None] = field(default_factory=list)  # of each epoch; None: let go
    agreements: list[float] = field(default_factory=list)  # a of each epoch but the last
    nets: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    # s of the steadiest epoch, and the share of what it and the next flag that both flag; until one is found -∞ and 0.
    standing: tuple[float, float] = (-np.inf, 0.0)

    def __call__(self, net: Classifier) -> bool:
        """Look at the net after the next epoch; whether the training may end."""
        self.recall()
        seen = score(net, self.train, device=self.device)
        self.nets[self.done] = {k: v.detach().cpu().clone() for k, v in net.state_dict().items()}
        keep = None if not ranks.leads() else self.folder  # the first process writes
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            save_file(self.nets[self.done], keep / f"net-{self.done}.safetensors")
            arrays = {"loss": seen.loss, "p_true": seen.p_true, "pred": seen.pred}
            np.savez(keep / f"view-{self.done}.npz", **arrays)  # type: ignore[arg-type]
        self._take(seen)
        best = self.best()
        for old in set(self.nets) - {best, self.done}:
            del self.nets[old]
            if keep is not None:
                (keep / f"net-{old}.safetensors").unlink(missing_ok=True)
        return self.found() and self.done - best >= PATIENCE

    def recall(self) -> None:
        """Take over from the folder those of the finished epochs that another process looked at."""
        if self.folder is None or len(self.scores) >= self.done:
            return
        for e in range(len(self.scores), self.done):
            with np.load(self.folder / f"view-{e}.npz", allow_pickle=False) as view:
                self._take(Scores(self.train.ids, view["loss"], view["p_true"], view["pred"]))
        for path in self.folder.glob("net-*.safetensors"):
            if (e := int(path.stem.removeprefix("net-"))) < self.done:
                self.nets[e] = load_file(path)

    def _take(self, seen: Scores) -> None:
        """The next epoch's scores: how far the last one agrees, and which are kept."""
        if self.scores:
            last = self.scores[-1]
            assert last is not None, "the last epoch's scores are kept"
            a = float(agreement(np.stack([last.flagged, seen.flagged]))[0])
            if a > max([-1.0, *self.agreements]):
                both = int((last.flagged & seen.flagged).sum())
                either = int((last.flagged | seen.flagged).sum())
                self.standing = float(both - (either - both)), both / either if either else 1.0
            self.agreements.append(a)
        self.scores.append(seen)
        kept = {self.best(), len(self.scores) - 1}
        self.scores = [s if e in kept else None for e, s in enumerate(self.scores)]

    def found(self) -> bool:
        """Whether there are two epochs in succession after which f_B explains enough."""
        return max(self.agreements, default=-1.0) >= 0

    def best(self) -> int:
        """The steadiest epoch, from 0: the first of the best, the last one where none is found."""
        return int(np.argmax(self.agreements)) if self.found() else len(self.scores) - 1

    def chosen(self) -> tuple[int, Scores, dict[str, Tensor]]:
        """The steadiest epoch, from 0, with its scores and its net's weights."""
        best = self.best()
        scores = self.scores[best]
        assert scores is not None, "the steadiest epoch's scores are kept"
        return best, scores, self.nets[best]
