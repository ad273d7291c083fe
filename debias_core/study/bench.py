"""One seed of a sweep: its held-out images, and what a cell is made of and scored by."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from debias_core import pipeline
from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import score
from debias_core.data.catalog import made_here, spread_in_words
from debias_core.data.images import Pixels, grid, png
from debias_core.data.making.named import named_table
from debias_core.data.table import ImageTable, evenly
from debias_core.diffusion.synthesis import settled
from debias_core.insight.fidelity import fidelity_of
from debias_core.insight.quality import distance
from debias_core.methods.audit import cut
from debias_core.records import ArmResult, AuditResult, Stage, SyntheticSet, UserError
from debias_core.settings.base import to_json
from debias_core.settings.injection import InjectConfig
from debias_core.settings.training import AuditConfig, DebiasConfig
from debias_core.stages import fidelity_judge, models
from debias_core.workspace import judgements
from debias_core.workspace.files import fingerprint, write_json
from debias_core.workspace.project import Project

HELD_OUT = 0.2
QUALITY_IMAGES = 5_000  # at most, on each side of KID
SHOWN = 10  # pairs of a cell that are kept to be looked at


@dataclass(frozen=True)
class HeldOut:
    """Training images with a held-out part as the "test" split; `rule` says what the score is."""

    table: ImageTable
    rule: str
    unbiased: bool


def held_out(project: Project, seed: int) -> HeldOut:
    """The data that a project's settings may be chosen on, with none of its test part.

    Raises:
        UserError: when there are too few training images.
    """
    source = project.source()
    if made_here(source.get("kind", "")):
        table = named_table(
            source["kind"], source["percent"], seed, validation=True, bias=source.get("bias", "")
        )
        said = spread_in_words(source["kind"], source.get("bias", ""))
        return HeldOut(table, f"accuracy on held-out training images, {said}", True)
    train = project.table().where("train")
    rng = np.random.default_rng([seed, 3])
    group = train.y if train.bias is None else train.y * (train.bias.max() + 2) + train.bias + 1
    held = np.zeros(len(train), dtype=np.bool_)
    for g in np.unique(group):
        rows = rng.permutation(np.flatnonzero(group == g))
        share = max(1, round(HELD_OUT * len(rows))) if len(rows) > 1 else 0
        held[rows[:share]] = True
    if held.sum() < 5:
        raise UserError("Too few training images to hold any out: a sweep needs at least 25.")
    table = replace(train, split=np.where(held, "test", "train"))
    known = "the attribute says" if train.bias is not None else "f_B gets right or wrong"
    return HeldOut(
        table, f"mean accuracy on aligned and conflicting held-out images, as {known}", False
    )


def _first_pairs(table: ImageTable, made: SyntheticSet) -> Pixels:
    some = made.origins[:SHOWN]
    content, original = table.sources(some)
    images = [*table.pixels[original], *table.pixels[content], *made.pixels[: len(some)]]
    return grid(images, len(some))


class Bench:
    """One seed's data, and what its cells share: audits, the judge, the synthetic set made last."""

    def __init__(
        self, project: Project, data: HeldOut, seed: int, steps: int, device: torch.device,
        *, swaps: bool,
    ) -> None:  # fmt: skip
        self._project, self._data, self._seed = project, data, seed
        self._steps, self._device = steps, device
        self._net, self._diffusion = models.diffusion_model(project, device, swaps=swaps)
        marks = judgements.current(project.db, project.name, project.data_id())
        barred = {i for i, mark in marks.items() if mark in judgements.NOT_AMPLIFIED}
        self._excluded = [i for i in data.table.ids.tolist() if i in barred]
        model = models.model_id(project, swaps=swaps)
        self._common = (project.data_id(), seed, steps, self._excluded, model)
        self._audits: dict[str, tuple[Classifier, AuditResult]] = {}
        self._made: tuple[str, SyntheticSet, dict[str, Any]] | None = None

    def cell(
        self, images: int | None, audit: AuditConfig, inject: InjectConfig, debias: DebiasConfig
    ) -> Stage[dict[str, Any]]:
        """One cell's figures, from the disk where they are known."""
        kept = self.kept(images, audit, inject, debias)
        audit, inject, debias, of_set = self._of_seed(images, audit, inject, debias)
        if not kept.is_file():
            table = yield from self._with_groups(_fewer(self._data.table, images), audit)
            vanilla = yield from self._vanilla(table, audit, debias, images)
            made, about = yield from self._synthetic(table, audit, inject, of_set)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.with_suffix(".png").write_bytes(png(_first_pairs(table, made)))
            if debias.min_fidelity > 0:
                made = yield from self._faithful(table, made, debias.min_fidelity)
            arm, seconds = yield from self._train(table, made, debias, "debiased")
            result = {"score": self._score(arm), "vanilla": vanilla, "training_seconds": seconds}
            write_json(kept, {**result, "conflicting": arm.accuracy.conflicting, **about})
        return json.loads(kept.read_text())

    def kept(
        self, images: int | None, audit: AuditConfig, inject: InjectConfig, debias: DebiasConfig
    ) -> Path:
        """The file of a cell's figures; it is there when the cell is finished."""
        audit, _, debias, of_set = self._of_seed(images, audit, inject, debias)
        return self._file(of_set, to_json(debias), to_json(audit))

    def _of_seed(
        self, images: int | None, audit: AuditConfig, inject: InjectConfig, debias: DebiasConfig
    ) -> tuple[AuditConfig, InjectConfig, DebiasConfig, str]:
        """The cell's settings at this seed, and what its synthetic set is known by."""
        audit = replace(audit, seed=self._seed)
        inject = replace(settled(inject, self._device), seed=self._seed)
        of_set = fingerprint(
            images, to_json(inject), to_json(audit) if inject.method == "diffinject" else None
        )
        return audit, inject, replace(debias, seeds=(self._seed,)), of_set

    def _file(self, *parts: Any) -> Path:
        return self._project.root / "sweep" / f"{fingerprint(*self._common, *parts)}.json"

    def _audit(
        self, table: ImageTable, audit: AuditConfig
    ) -> Stage[tuple[Classifier, AuditResult]]:
        # One f_B for every K, which only cuts its ranking.
        key = fingerprint(to_json(audit.uncut), len(table))
        if key not in self._audits:
            self._audits[key] = yield from pipeline.audit(table, audit, device=self._device)
        net, found = self._audits[key]
        train = table.where("train")
        return net, cut(train, found.scores, audit.top_k, per_class=audit.per_class)

    def _with_groups(self, table: ImageTable, audit: AuditConfig) -> Stage[ImageTable]:
        """Where nobody knows the bias: what f_B gets wrong counts as conflicting, for the score."""
        if table.bias is not None:
            return table
        f_b, _ = yield from self._audit(table, audit)
        wrong = score(f_b, table, device=self._device).pred != table.y
        return replace(table, bias=wrong.astype(np.int64), bias_names=("right", "wrong"))

    def _vanilla(
        self, table: ImageTable, audit: AuditConfig, debias: DebiasConfig, images: int | None
    ) -> Stage[float]:
        groups = to_json(audit) if self._data.table.bias is None else None
        kept = self._file("vanilla", images, to_json(debias.classifier), groups)
        if not kept.is_file():
            arm, _ = yield from self._train(
                table, SyntheticSet(table.pixels[:0], (), 0.0, 0.0, 0.0), debias, "vanilla"
            )
            write_json(kept, {"score": self._score(arm)})
        return json.loads(kept.read_text())["score"]

    def _synthetic(
        self, table: ImageTable, audit: AuditConfig, inject: InjectConfig, key: str
    ) -> Stage[tuple[SyntheticSet, dict[str, Any]]]:
        """The synthetic set, and what it cost and shows."""
        if self._made is None or self._made[0] != key:
            top = np.array([], dtype=np.str_)
            if inject.method == "diffinject":
                top = (yield from self._audit(table, audit))[1].top_k.ids
            present = set(table.ids.tolist())
            excluded = [i for i in self._excluded if i in present]
            made = yield from pipeline.synthesise(
                self._net, self._diffusion, table, top, inject,
                device=self._device, excluded=excluded,
            )  # fmt: skip
            judge = yield from fidelity_judge.judge_for(self._project, device=self._device)
            f = fidelity_of(judge, table, made, device=self._device)
            real = table.where("train")
            real = real.take(evenly(len(real), QUALITY_IMAGES))
            some = evenly(len(made.origins), QUALITY_IMAGES)
            far = distance(judge, made.pixels[some], real.pixels, device=self._device)
            about = {
                "label_fidelity": f.content,
                "look_fidelity": f.look,
                "kid": far.kid,
                "seconds_per_image": made.seconds / len(made.origins),
                "unet_evaluations_per_image": made.evaluations_per_image,
                "generation_seconds": made.seconds,
            }
            self._made = (key, made, about)
        return self._made[1:]

    def _faithful(self, table: ImageTable, made: SyntheticSet, least: float) -> Stage[SyntheticSet]:
        """The synthetic images of this label fidelity, by a judge that has seen what a person has."""
        folder, key = self._project.root / "sweep" / "judge", fingerprint(*self._common, len(table))
        judge = yield from fidelity_judge.kept_judge(
            folder, lambda: table.where("train"), key, self._device
        )
        keep = np.flatnonzero(fidelity_of(judge, table, made, device=self._device).score >= least)
        if len(keep) == 0:
            raise UserError(f"No synthetic image has a label fidelity of {least:g}: lower it.")
        return replace(made, pixels=made.pixels[keep], origins=tuple(made.origins[i] for i in keep))

    def _train(
        self, table: ImageTable, made: SyntheticSet, debias: DebiasConfig, arm: str
    ) -> Stage[tuple[ArmResult, float]]:
        began = time.perf_counter()
        arms, _ = yield from pipeline.debias(
            table, made, debias, device=self._device, arms=(arm,), steps=self._steps
        )
        return arms[0], time.perf_counter() - began

    def _score(self, arm: ArmResult) -> float:
        a = arm.accuracy
        if self._data.unbiased or a.aligned is None or a.conflicting is None:
            return a.average
        return (a.aligned + a.conflicting) / 2


def _fewer(table: ImageTable, images: int | None) -> ImageTable:
    """The table with at most so many training images, evenly from the whole; all held-out ones."""
    train, held = (np.flatnonzero(table.split == s) for s in ("train", "test"))
    if images is None or images >= len(train):
        return table
    return table.take(np.sort(np.concatenate([train[evenly(len(train), images)], held])))
