"""What can be set of a method on a named data set, and where a value that is given goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from debias_core.methods.method import Method
from debias_core.settings.base import Offer, options_of
from debias_core.settings.data_sets import NamedDataConfig
from debias_core.settings.language import CaptionConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig

_TRAINING = ("network", "epochs", "lr", "batch_size")
_OF_BACKBONE = (
    "frozen", "pretrained", "weights", "head", "head_epochs", "input_size", "optimizer", "drops",
)  # fmt: skip
# Where the settings of a method that makes images stand in `BenchmarkConfig`.
_WHERE = {"injection": "inject", "words": "draw", "images": "own"}
_AUDIT_EPOCHS = {"epochs": "audit_epochs"}


def offers_of(method: Method) -> tuple[Offer, ...]:
    """What can be set: of a method's own training in its settings, of the others in those of the whole loop."""
    if method.family == "training":
        return (
            Offer(
                ClassifierConfig,
                "classifier",
                (*_TRAINING, "weight_decay", "augment", *_OF_BACKBONE),
                whose="the training",
            ),
            Offer(method.settings, method=method.name),
        )
    if method.family == "recipe":
        return (
            *(
                Offer(ClassifierConfig, f"{part}.classifier", ("network",))
                for part in ("audit", "amplify", "ddb")
            ),
            Offer(ClassifierConfig, "audit.classifier", ("epochs",), names=_AUDIT_EPOCHS),
            Offer(ClassifierConfig, "ddb.classifier", _TRAINING[1:]),
        )
    # `size` is the images', `batch_size` the retraining's.
    own = Offer(
        method.settings,
        _WHERE[method.family],
        without=("method", "batch_size", "size"),
        method=method.name,
    )
    says = Offer(CaptionConfig, "describe", ("model", "per_image"), method=method.name)
    return (*_OF_THE_LOOP, own, *([says] if method.family == "words" else []))


_OF_THE_LOOP = (
    Offer(ClassifierConfig, "audit.classifier", ("network",)),
    Offer(ClassifierConfig, "debias.classifier", _TRAINING, whose="the retraining"),
    Offer(
        ClassifierConfig, "audit.classifier", ("network", "epochs"),
        names={"network": "audit_network", **_AUDIT_EPOCHS}, whose="the bias classifier",
    ),
    Offer(
        ClassifierConfig, "debias.classifier", ("loss",), names={"loss": "retrain_loss"},
        whose="the retraining",
    ),
    Offer(AuditConfig, "audit", ("top_k", "per_class", "steady")),
    Offer(DebiasConfig, "debias", ("synthetic_share",)),
)  # fmt: skip


def unknown_to(methods: Iterable[Method], given: Iterable[str]) -> list[str]:
    """Those of the given options that none of these methods has a use for."""
    known = {option.name for method in methods for option in options_of(offers_of(method))}
    known |= {f.name for f in fields(NamedDataConfig)}  # which images, whatever the method
    return [name for name in given if name not in known]
