"""A project's audit on disk: losses, top-K, features, maps."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from debias_core.data.pixel_file import PARSING, map_array
from debias_core.data.table import MANY_ROWS
from debias_core.records import AuditResult, Chosen, Scores, TopK, UserError
from debias_core.settings.base import from_json
from debias_core.settings.training import ClassifierConfig
from debias_core.workspace.files import mapped
from debias_core.workspace.project_base import SCORES, ProjectBase

if TYPE_CHECKING:  # the server lists projects without loading torch
    from debias_core.classifier.networks import Classifier


class AuditFiles(ProjectBase):
    """The part of a project that an audit writes."""

    def save_audit(self, net: Classifier, result: AuditResult, about: dict[str, Any]) -> None:
        """Write f_B, its scores and the top-K."""
        network = from_json(ClassifierConfig, about["config"]["classifier"])
        if result.chosen is not None:
            network = network.on(result.chosen.network)
        self.save_net(net, self.folder("audit"), network)
        self.save_losses("audit", result.scores)
        self.save_top_k(result, about)

    def save_losses(self, stage: str, scores: Scores) -> None:
        """Write a biased classifier's view of the train part: f_B's, or the amplifier's."""
        with (self.folder(stage) / "scores.csv").open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["id", "loss", "p_true", "pred"])
            columns = (c.tolist() for c in (scores.loss, scores.p_true, scores.pred))
            writer.writerows(zip(scores.ids, *columns, strict=True))
        (self.folder(stage) / SCORES).unlink(missing_ok=True)
        if len(scores.ids) >= MANY_ROWS:  # as an array too: a million lines take seconds to read
            rows = np.empty(len(scores.ids), dtype=[("loss", "<f4"), ("p", "<f4"), ("pred", "<i4")])
            rows["loss"], rows["p"], rows["pred"] = scores.loss, scores.p_true, scores.pred
            np.save(self.folder(stage) / SCORES, rows, allow_pickle=False)

    def losses(self, stage: str) -> Scores:
        """What `save_losses` wrote, of "audit" or "amplify".

        Raises:
            UserError: when the stage has not been run.
        """
        self.manifest(stage)
        if (self.folder(stage) / SCORES).is_file():
            known, table = map_array(self.folder(stage) / SCORES), self.table()
            return Scores(
                ids=table.ids[table.split == "train"],
                loss=np.array(known["loss"]),
                p_true=np.array(known["p"]),
                pred=known["pred"].astype(np.int64),
            )
        with (self.folder(stage) / "scores.csv").open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        return Scores(
            ids=np.array([r["id"] for r in rows], dtype=np.str_),
            loss=np.array([float(r["loss"]) for r in rows], dtype=np.float32),
            p_true=np.array([float(r["p_true"]) for r in rows], dtype=np.float32),
            pred=np.array([int(r["pred"]) for r in rows], dtype=np.int64),
        )

    def save_top_k(self, result: AuditResult, about: dict[str, Any]) -> None:
        """Write the audit's manifest; the scores and f_B must be there."""
        self.finish(
            "audit",
            {
                **about,
                "top_k": {"ids": result.top_k.ids.tolist(), "rule": result.top_k.rule},
                "train_accuracy": result.train_accuracy,
                "precision_at_k": result.precision_at_k,
                "average_precision": result.average_precision,
                "warning": result.warning,
                "chosen": None if result.chosen is None else asdict(result.chosen),
            },
        )

    def save_features(self, parts: Iterable[NDArray[np.float32]], n: int) -> NDArray[np.float16]:
        """Keep f_B's penultimate features of the train part [N, D], given in parts; returns them mapped."""
        path, at = self.folder("audit") / "features.new.npy", 0
        kept: NDArray[np.float16] | None = None
        for part in parts:
            if kept is None:
                # Half precision is plenty for neighbours and maps, and half as large.
                shape = (n, part.shape[1])
                kept = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
            kept[at : at + len(part)] = part
            at += len(part)
        assert kept is not None and at == n
        path.replace(self.folder("audit") / "features.npy")  # one that is mapped stays as it is
        return kept

    def save_pca(self, pca: NDArray[np.float32]) -> None:
        """Keep the map [N, 2] of the features; the audit counts from then on."""
        fresh = self.folder("audit") / "pca.new.npy"
        np.save(fresh, pca, allow_pickle=False)
        fresh.replace(self.folder("audit") / "pca.npy")

    def features(self) -> NDArray[np.float16]:
        """f_B's penultimate features of the train part [N, D], memory-mapped."""
        self.manifest("audit")
        return mapped(self.folder("audit") / "features.npy")

    def drop_tsne(self) -> None:
        """Forget the t-SNE, which is of other features by now."""
        (self.folder("audit") / "tsne.npz").unlink(missing_ok=True)

    def save_clusters(self, cluster: NDArray[np.int64]) -> None:
        """Keep the cluster of each training image [N] in embeddings that were brought."""
        np.save(self.folder("audit") / "clusters.npy", cluster, allow_pickle=False)

    def clusters(self) -> NDArray[np.int64] | None:
        """What `save_clusters` kept; None where no embeddings were brought."""
        path = self.folder("audit") / "clusters.npy"
        return mapped(path) if path.is_file() else None

    @property
    def has_bias_net(self) -> bool:
        """Whether the audit has a network; one of brought predictions has none."""
        return (self.folder("audit") / "model.json").is_file()

    def save_tsne(self, rows: NDArray[np.int64], xy: NDArray[np.float32]) -> None:
        """Keep the t-SNE [M, 2] of train rows [M]."""
        fresh = self.folder("audit") / "tsne.new.npz"
        np.savez(fresh, rows=rows, xy=xy)
        fresh.replace(self.folder("audit") / "tsne.npz")

    def points(self, method: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(train rows [M], points [M, 2]) of the audit's map, "pca" or "tsne"; PCA knows all rows."""
        self.manifest("audit")
        folder = self.folder("audit")
        if method == "pca":
            xy = mapped(folder / "pca.npy")
            return np.arange(len(xy)), xy
        if not (folder / "tsne.npz").is_file():
            raise UserError("The t-SNE map is not drawn yet: press 'Draw the t-SNE map'.")
        with PARSING, np.load(folder / "tsne.npz", allow_pickle=False) as data:
            return data["rows"], data["xy"]

    def audit(self) -> AuditResult:
        """The audit's result."""
        m = self.manifest("audit")
        scores = self.losses("audit")
        ids = np.array(m["top_k"]["ids"], dtype=np.str_)
        rows = self.table().where("train").positions(ids)
        top = TopK(ids, scores.loss[rows], m["top_k"]["rule"])
        return AuditResult(
            scores, top, m["train_accuracy"], m["precision_at_k"], m["average_precision"],
            m["warning"], Chosen(**m["chosen"]) if m.get("chosen") else None,
        )  # fmt: skip
