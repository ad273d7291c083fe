"""Settings of trainings on a frozen backbone: heads on features, which take seconds (all ours)."""

from __future__ import annotations

import dataclasses
from typing import Any

from debias_core.settings.amplification import AmplifyConfig
from debias_core.settings.base import C
from debias_core.settings.data_sets import BenchmarkConfig, DDBBenchmarkConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig

# Side of the images in pixels: of photographs, and of the small images that are made here, which are enlarged.
PHOTOGRAPH, ENLARGED = 160, 96


def head(backbone: str, **changes: Any) -> ClassifierConfig:
    """A linear layer on a frozen backbone, and its training."""
    return dataclasses.replace(
        ClassifierConfig(
            network=backbone, frozen=True, epochs=30, batch_size=128, lr=1e-3, weight_decay=1e-4, decay=True,
        ),
        **changes,
    )  # fmt: skip


def f_b(backbone: str, **changes: Any) -> ClassifierConfig:
    """The bias classifier on a frozen backbone: stopped early, before it knows single images."""
    return head(backbone, **{"loss": "gce", "epochs": 10, "decay": False, **changes})


def training_on(config: C, backbone: str, **changes: Any) -> C:
    """The settings of a method of family "training" with a frozen backbone in place of its network."""
    parts: dict[str, Any] = {"classifier": head(backbone, **changes)}
    if isinstance(audit := getattr(config, "audit", None), AuditConfig):
        parts["audit"] = audit_on(audit, backbone, **changes)
    return dataclasses.replace(config, **parts)  # type: ignore[type-var]


def audit_on(audit: AuditConfig, backbone: str, **changes: Any) -> AuditConfig:
    """An audit by a head on a frozen backbone."""
    return dataclasses.replace(audit, classifier=f_b(backbone, **changes), steady=False, other="")


def loop_on(on: BenchmarkConfig, backbone: str, **changes: Any) -> BenchmarkConfig:
    """The whole loop with a frozen backbone in audit and retraining."""
    debias = dataclasses.replace(on.debias, classifier=head(backbone, **changes))
    return dataclasses.replace(on, audit=audit_on(on.audit, backbone, **changes), debias=debias)


def recipe_on(on: DDBBenchmarkConfig, backbone: str, **changes: Any) -> DDBBenchmarkConfig:
    """A recipe of DDB with heads on a frozen backbone, the amplifier's trained on the real images: at the size of
    photographs no diffusion model is trained beside it."""
    amplify: AmplifyConfig = dataclasses.replace(
        on.amplify, trained_on="real", classifier=f_b(backbone, **changes)
    )
    return dataclasses.replace(
        on, audit=audit_on(on.audit, backbone, **changes), amplify=amplify, curves=False,
        ddb=dataclasses.replace(on.ddb, classifier=head(backbone, **changes)),
    )  # fmt: skip
