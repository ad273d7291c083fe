"""Diffusing DeBias (DDB, Ciranni et al., NeurIPS 2025): an amplifier that saw no real image leads the training.

1. A class-conditional diffusion model of the biased images draws more of them (`diffusion/guidance.py`).
2. An amplifier is trained on those: conflicting images, too few to be drawn, can't be memorised.
3. A recipe: the amplifier's losses on the real images make groups (I) or weights (II) of the training
   (`methods/nets/ddb.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from debias_core.data.table import ImageTable
from debias_core.methods.method import Method
from debias_core.records import ArmResult, Scores, Stage
from debias_core.settings.amplification import DDBConfig

if TYPE_CHECKING:
    from debias_core.classifier.networks import Classifier


def debias(
    table: ImageTable, scores: Scores, config: DDBConfig, **more: Any
) -> Stage[tuple[tuple[ArmResult, ...], dict[str, Classifier]]]:
    """Train vanilla and the config's recipe at every seed, as `nets.ddb.debias` says."""
    from debias_core.methods.nets import ddb

    return (yield from ddb.debias(table, scores, config, **more))


METHODS = (
    Method(
        name="ddb-1",
        title="DDB, recipe I",
        sentence="Trains for the worst of the groups that an amplifier of the bias tells apart.",
        paper="Ciranni et al., NeurIPS 2025, arXiv 2502.09564",
        family="recipe",
        settings=DDBConfig,
        run=debias,
    ),
    Method(
        name="ddb-2",
        title="DDB, recipe II",
        sentence="Weighs the images by how much harder they are for an amplifier of the bias.",
        paper="Ciranni et al., NeurIPS 2025, arXiv 2502.09564",
        family="recipe",
        settings=DDBConfig,
        run=debias,
    ),
)
