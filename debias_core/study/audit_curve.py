"""Precision of the audit against K, q and epochs; and how close the choice without labels comes.

For data whose bias attribute is known: the curve scores every epoch of f_B, which a person with
unlabelled bias can't. Nothing is chosen by it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from debias_core.classifier.metrics import average_precision
from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import score
from debias_core.classifier.training import train_classifier
from debias_core.data.table import ImageTable
from debias_core.methods.audit import SPLIT, rank
from debias_core.records import Progress, Stage, UserError
from debias_core.settings.training import AuditConfig

DEPTHS = (10, 100, 1000)  # K at which precision is told


def run_audit_curve(
    table: ImageTable, config: AuditConfig, qs: tuple[float, ...], *, device: torch.device
) -> Stage[list[dict[str, Any]]]:
    """For each q one f_B, scored after every epoch; returns a record for each q.

    Each has `epochs` (average precision, precision@K, `unexplained`, its precision and recall,
    `separation`) and the numbers from 0 of the `best` epoch, of that `chosen` by the split, and of
    the last.

    Raises:
        UserError: when the bias attribute is unknown, or no training image conflicts.
    """
    train = table.where("train")
    conflicting = train.conflicting()
    if conflicting is None or not conflicting.any():
        raise UserError("The curve needs a known bias attribute, and images that conflict with it.")
    blind, found = train.without_bias(), []
    for part, q in enumerate(qs):
        epochs: list[dict[str, Any]] = []

        def look(net: Classifier, epochs: list[dict[str, Any]] = epochs) -> bool:
            scores = score(net, blind, device=device)
            hit = conflicting[rank(scores.loss)]
            k = scores.suggested_k
            epochs.append(
                {
                    "average_precision": average_precision(conflicting, scores.loss),
                    "precision_at": {
                        str(n): float(hit[:n].mean()) for n in DEPTHS if n <= len(hit)
                    },
                    "unexplained": scores.unexplained,
                    "unexplained_precision": float(hit[:k].mean()),
                    "unexplained_recall": float(hit[:k].sum() / hit.sum()),
                    "separation": scores.separation,
                    "train_accuracy": float((scores.pred == train.y).mean()),
                }
            )
            return False

        stage = train_classifier(
            blind.pixels,
            blind.y,
            len(blind.class_names),
            replace(config.classifier, loss="gce", q=q),
            seed=config.seed,
            device=device,
            enough=look,
        )
        for p in stage:
            yield Progress(f"audit, q {q:g}", p.done, p.total, p.note, part=part, parts=len(qs))
        split = [i for i, e in enumerate(epochs) if e["separation"] >= SPLIT]
        found.append(
            {
                "q": q,
                "conflicting": int(conflicting.sum()),
                "images": len(train),
                "epochs": epochs,
                "best": int(np.argmax([e["average_precision"] for e in epochs])),
                "chosen": split[0] if split else len(epochs) - 1,
                "last": len(epochs) - 1,
            }
        )
    return found
