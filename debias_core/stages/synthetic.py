"""A project's synthetic sets: their ids, what ends one, two as one, and what is trained on of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier.networks import Classifier
from debias_core.data.making.digits import is_colored_digits
from debias_core.data.table import ImageTable
from debias_core.insight.fidelity import BY_SHAPE, fidelity_of
from debias_core.records import Stage, StopAsked, SyntheticSet, UserError
from debias_core.settings.base import to_json
from debias_core.settings.data_sets import BenchmarkConfig
from debias_core.settings.injection import InjectConfig, without_newer
from debias_core.settings.training import DebiasConfig
from debias_core.stages import fidelity_judge, models
from debias_core.workspace import judgements
from debias_core.workspace.files import fingerprint
from debias_core.workspace.project import Project


def about_set(
    project: Project, config: InjectConfig, *, shipped: bool = False
) -> tuple[ImageTable, NDArray[np.str_], list[str], str]:
    """(images, the audit's top-K, ids that are left out, id) of the set that these settings make.

    Raises:
        UserError: when DiffInject is to work without an audit, or there is no diffusion model.
    """
    table = project.table()
    audited = project.has("audit") or config.method == "diffinject"
    top = project.audit().top_k.ids if audited else np.array([], dtype=np.str_)
    model = models.model_id(project, swaps=bool(config.direct), shipped=shipped)
    marks = judgements.current(project.db, project.name, table.data_id)
    excluded = sorted(i for i, mark in marks.items() if mark in judgements.NOT_AMPLIFIED)
    return table, top, excluded, id_of_set(to_json(config), table.data_id, top, excluded, model)


def finish_set(
    project: Project,
    set_id: str,
    made: SyntheticSet,
    about: dict[str, Any],
    *,
    beside: str | None,
    device: torch.device,
    with_flags: bool = True,
) -> Stage[SyntheticSet]:
    """Flag a set's images, measure its fidelity, and make it the current one.

    `beside` is an earlier set to keep with it. Where the judge was not asked (`with_flags` is off, or the
    person stopped it) the manifest has no "fidelity".
    """
    judge: Classifier | None = None
    if with_flags:
        try:
            judge = yield from fidelity_judge.run_judge(project, device=device)
            project.save_scores(
                set_id, fidelity_judge.flagged(judge, project.table(), made, device)
            )
        except StopAsked as stop:
            if not stop.keep:
                raise
    beside = None if beside == set_id else beside  # the same images again
    if beside is not None or any(r.refused for r in made.origins):
        set_id, made, parts = together(project, beside, set_id, made)
        about = {**about, "parts": parts}
    if judge is not None:  # of what the person gets: with the images beside, without refused ones
        of_set = fidelity_of(judge, project.table(), made, device=device)
        shares = {k: v for k, v in vars(of_set).items() if k != "score"}  # each image has its own
        told = fidelity_judge.about_judge(project, judge, BY_SHAPE, device=device)
        about = {**about, "fidelity": {**shares, "judge": told}}
    project.finish_synthetic(set_id, made, about)
    project.record_run(
        "synthetic", about["config"], {"set": set_id, "count": len(made.origins)}, made.seconds
    )
    return made


def together(
    project: Project, beside: str | None, set_id: str, made: SyntheticSet
) -> tuple[str, SyntheticSet, list[dict[str, Any]]]:
    """The images of two sets as a set of its own, with their origins, flags and judgements.

    The images of `beside` (where one is given) come first; one that both hold is there once, and
    refused ones are left out. Returns its id, the set, and what its parts are.
    """
    parts = [(beside, project.origins(beside))] if beside else []
    # Either may have been stopped and kept, and gone on since.
    counts = [len(origins) for _, origins in parts]
    new_id = fingerprint("together", beside, *counts, set_id, len(made.origins))
    known = {r for _, origins in parts for r in origins}
    # Which images of which set: each once, and no refused one.
    keep = [
        (part, i)
        for part, origins in [*parts, (set_id, made.origins)]
        for i, r in enumerate(origins)
        if not r.refused and (part != set_id or r not in known)
    ]
    origins_of = {**dict(parts), set_id: made.origins}
    origins = [origins_of[part][i] for part, i in keep]
    if not keep:
        raise UserError("The model's safety checker refused every image: change the prompts.")
    # The images, with what they cost.
    pixels = np.stack([project.pixels_of(part)[i] for part, i in keep])
    sink = project.sink(new_id, len(keep), made.pixels.shape[1])
    costs = [project.cost_of(part) for part in origins_of]
    total = sum(costs[1:], costs[0])
    if sink.finished() < len(keep):
        sink.add(0, pixels, origins, total)
    # Their flags, and a person's judgements.
    scores = {part: project.scores_of(part) for part in origins_of}
    project.save_scores(new_id, [scores[part][i] for part, i in keep])
    judged = {part: judgements.current(project.db, project.name, part) for part in origins_of}
    carried = [
        judgements.Judgement(f"{new_id}-{number}", str(number), judged[part][str(i)])
        for number, (part, i) in enumerate(keep)
        if str(i) in judged[part]
    ]
    judgements.record(project.db, project.name, new_id, carried, judgements.JUDGEMENTS)
    # What the parts are, and the whole.
    about = [
        {"set": part, "count": sum(p == part for p, _ in keep),
         "refused": sum(r.refused for r in origins_of[part])}
        for part in origins_of
    ]  # fmt: skip
    before = project.set_manifest(beside)["unet_evaluations_per_image"] if beside else 0.0
    spent = {beside: before, set_id: made.evaluations_per_image}
    whole = SyntheticSet(
        pixels=pixels,
        origins=tuple(origins),
        evaluations_per_image=sum(spent[part] for part, _ in keep) / len(keep),
        network_share=total.network_seconds / max(total.seconds, 1e-9),
        seconds=total.seconds,
    )
    return new_id, whole, about


def id_of_set(
    config: dict[str, Any], data_id: str, top: NDArray[np.str_], excluded: Sequence[str], model: str
) -> str:
    """The id of the synthetic set that this is the making of; the size of the batches has no part.

    `top` are the ids of the audit's top-K, which CrossInject does not look at.
    """
    settings = {k: v for k, v in without_newer(config).items() if k != "batch_size"}
    used = top.tolist() if config.get("method", "diffinject") == "diffinject" else []
    return fingerprint(settings, data_id, used, list(excluded), model)


def curated_set(project: Project, config: DebiasConfig) -> tuple[SyntheticSet, dict[str, Any]]:
    """The synthetic images that may be trained on, and how many were judged how.

    Raises:
        UserError: when none is left.
    """
    made, set_id = project.synthetic(), project.set_id()
    assert set_id is not None
    by_item = judgements.current(project.db, project.name, set_id)
    judged = [by_item.get(str(i)) for i in range(len(made.origins))]
    scores = project.scores() if config.min_fidelity > 0 else []
    if any("fidelity" not in s for s in scores):
        raise UserError(
            "These synthetic images have no label fidelity yet (their generation was stopped): "
            "generate them to the end, or set the least label fidelity to 0."
        )
    used = judgements.used(judged, config.only_accepted, scores, config.min_fidelity)
    willing = len(judgements.used(judged, config.only_accepted))
    counts = {
        "accepted": judged.count("accept"),
        "rejected": judged.count("reject"),
        "undecided": sum(v in (None, "skip") for v in judged),
        "doubtful": willing - len(used),
        "trained_on": len(used),
        "digest": fingerprint(used),
    }
    if not used:
        raise UserError(
            "No synthetic image is left to train on: accept some in Curate"
            + (", or train on the undecided ones too." if config.only_accepted else ".")
            + (" Or lower the least label fidelity." if willing else "")
        )
    kept = replace(made, pixels=made.pixels[used], origins=tuple(made.origins[i] for i in used))
    return kept, {**counts, "used": used}


def debias_settings(table: ImageTable) -> DebiasConfig:
    """The settings to begin with: the demo's for Colored Digits, else the general ones."""
    return BenchmarkConfig().debias if is_colored_digits(table) else DebiasConfig()
