"""DiffuBias in a project: captions of the top-K, a person's changes to them, and images drawn from them.

What a captioner said is in the database, by image and question, so that nothing is asked twice; which
captions the project works with is in captions/manifest.json. A person's changes are entries of the
log of judgements, folded over the captions in their order: they outlive everything, and each can be
undone.

The page asks for captions whenever it is drawn: what needs torch is loaded by the functions that do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from debias_core.data.making.cmnist import is_colored_mnist
from debias_core.data.making.digits import is_colored_digits
from debias_core.data.table import ImageTable
from debias_core.language import textfilter
from debias_core.methods import diffubias
from debias_core.methods.diffubias import Prompt
from debias_core.presets.methods import diffubias_for
from debias_core.records import Progress, Stage, UserError
from debias_core.settings.base import to_json
from debias_core.settings.language import CaptionConfig, DrawConfig
from debias_core.workspace import judgements
from debias_core.workspace.energy_log import metered
from debias_core.workspace.files import fingerprint
from debias_core.workspace.project import Project

if TYPE_CHECKING:
    import torch

    from debias_core.compute.team import Cluster
    from debias_core.insight.comparison import Finding

LONGEST = 500  # characters of a caption that a person writes
MOST_WORDS = 200  # in the text filter


@dataclass(frozen=True)
class Caption:
    """One caption as it stands: `said` by the captioner, `text` after a person's changes."""

    number: int
    image_id: str
    label: int
    said: str
    text: str
    kept: bool


@dataclass(frozen=True)
class FilterWord:
    """One word of the text filter: how many captions hold it, and whether it keeps them."""

    word: str
    count: int
    on: bool
    added: bool = False


@dataclass(frozen=True)
class Described:
    """A project's captions as they stand."""

    id: str
    captions: tuple[Caption, ...]
    words: tuple[FilterWord, ...]
    config: dict[str, Any]
    stop_words: str
    can_undo: bool

    def prompts(self, *, text_filter: bool) -> tuple[Prompt, ...]:
        """What is drawn from: the kept captions, or all of them."""
        return tuple(
            Prompt(c.text, c.image_id, c.label)
            for c in self.captions
            if c.text and (c.kept or not text_filter)
        )


def default_models(table: ImageTable) -> tuple[str, str]:
    """The captioner and the text-to-image model to begin with: small ones that ship where these are known."""
    say, paint = caption_settings(table)
    return say.model, paint.model


def models_in_use(project: Project) -> tuple[str, str]:
    """The captioner and the text-to-image model that were used last, else those to begin with."""
    say, paint = default_models(project.table())
    if project.has("captions"):
        say = project.manifest("captions")["config"]["model"]
    if (
        project.has("synthetic")
        and (made := project.manifest("synthetic")).get("method") == "diffubias"
    ):
        paint = made["config"]["model"]
    return say, paint


def caption_settings(table: ImageTable) -> tuple[CaptionConfig, DrawConfig]:
    """DiffuBias' settings for these images: a named data set's, or the paper's kind of models."""
    known = {"digits": is_colored_digits, "cmnist": is_colored_mnist}
    return diffubias_for(next((name for name, is_it in known.items() if is_it(table)), ""))


@metered("describe")
def run_describe(
    project: Project, config: CaptionConfig, *, device: torch.device, cluster: Cluster | None = None
) -> Stage[Described]:
    """Caption the audit's top-K; images marked as wrong label or junk are left out.

    What was said of an image before, to the same question by the same model, is not asked again.
    """
    from debias_core.language import on_workers
    from debias_core.language.captioner import image_hash

    # Which images: the top-K that the marks leave, and as many others as were asked for.
    table, top = project.table(), project.audit().top_k.ids
    marks = judgements.current(project.db, project.name, table.data_id)
    ids = [str(i) for i in top if marks.get(str(i)) not in judgements.NOT_AMPLIFIED]
    if not ids:
        raise UserError(
            "There is no image to describe: all of the top-K are marked as wrong label or junk."
        )
    everyone = [*ids, *_rest(project, table, ids, config)]
    rows = table.positions(everyone)
    # What was said of them before, to this very question.
    hashes = [image_hash(table.pixels[r]) for r in rows]
    asked = fingerprint({k: v for k, v in to_json(config).items() if k != "batch_size"})
    said = {h: old for h in hashes if (old := _said(project, h, asked)) is not None}
    missing = [i for i, h in enumerate(hashes) if h not in said]
    began = time.perf_counter()
    yield Progress("describe", len(rows) - len(missing), len(rows), "loading the captioner")
    # The captioner is asked of the others; each answer is kept as it comes.
    if missing:
        parts = on_workers.describe(
            table.pixels[rows[missing]], config, device=device, cluster=cluster
        )
        done = 0
        for part, of_workers in parts:
            for texts in part:
                h = hashes[missing[done]]
                said[h] = [_plain(text) for text in texts]
                project.db.write(
                    "INSERT OR REPLACE INTO captions (image, asked, texts) VALUES (?, ?, ?)",
                    (h, asked, json.dumps(said[h], ensure_ascii=False)),
                )
                done += 1
            rate = done / (time.perf_counter() - began)
            note = f"{rate:.1f} images/s" if done else "the workers start"
            note = f"{note}; {of_workers}" if of_workers else note
            yield Progress("describe", len(rows) - len(missing) + done, len(rows), note)
    # The captions in the order of the images: those of the top-K, and the rest's beside them.
    items, of_rest = (
        [
            {"image": everyone[i], "label": int(table.y[rows[i]]), "text": text}
            for i in part
            for text in said[hashes[i]]
        ]
        for part in (range(len(ids)), range(len(ids), len(everyone)))
    )
    seconds = time.perf_counter() - began
    manifest = {
        "id": fingerprint(items, asked),
        "config": to_json(config),
        "items": items,
        "rest": of_rest,
        "stop_words": textfilter.stop_words().source,
        "seconds": seconds,
    }
    project.finish("captions", manifest)
    project.record_run("describe", to_json(config), {"captions": len(items)}, seconds)
    return described(project)


def described(project: Project) -> Described:
    """The project's captions with a person's changes.

    Raises:
        UserError: when there are none yet.
    """
    m = project.manifest("captions")
    said = [item["text"] for item in m["items"]]
    texts, switched = list(said), dict[str, bool]()
    log = judgements.log(project.db, project.name, _log_id(m["id"]))
    for item, value in log:
        kind, _, name = item.partition(":")
        if kind == "caption":
            texts[int(name)] = value
        elif kind == "word":
            switched[name] = value == "on"
        else:
            change = json.loads(value)
            texts = [_plain(t.replace(change["find"], change["with"])) for t in texts]
    classes = len(project.table().class_names)
    found = dict(textfilter.frequent_words(texts, classes))
    words = [FilterWord(w, n, switched.get(w, True)) for w, n in found.items()]
    split = [set(textfilter.words_of(t)) for t in texts]
    words += [
        FilterWord(w, sum(w in s for s in split), True, added=True)
        for w, on in switched.items()
        if on and w not in found
    ]
    kept = textfilter.passes(texts, [w.word for w in words if w.on])
    return Described(
        id=m["id"],
        captions=tuple(
            Caption(i, item["image"], item["label"], item["text"], text, bool(text) and k)
            for i, (item, text, k) in enumerate(zip(m["items"], texts, kept, strict=True))
        ),
        words=tuple(words),
        config=m["config"],
        stop_words=m["stop_words"],
        can_undo=bool(log),
    )


def in_words(project: Project, chosen: Sequence[str] | None = None) -> tuple[Finding, ...]:
    """What the captions of the top-K (of the images `chosen` among them) say, and the rest's don't.

    Empty where nothing stands out, or where a chosen image was not described.
    """
    from debias_core.insight.keywords import keywords

    if not project.has("captions"):
        return ()
    captions, y, rows = _spoken(project, chosen)
    names, stop = project.table().class_names, textfilter.stop_words().words
    return keywords(captions, y, names, rows, textfilter.words_of, stop) if len(rows) else ()


def _spoken(
    project: Project, chosen: Sequence[str] | None
) -> tuple[list[list[str]], NDArray[np.int64], NDArray[np.int64]]:
    """What was said of each described image, its class, and which are `chosen` (None: the top-K).

    None is chosen where one of `chosen` was not described.
    """
    m = project.manifest("captions")
    said: dict[str, list[str]] = {}
    for item in (*m["items"], *m.get("rest", ())):
        said.setdefault(item["image"], []).append(item["text"])
    ids, table = list(said), project.table()
    wanted = set(chosen if chosen is not None else (item["image"] for item in m["items"]))
    if not wanted <= said.keys():
        wanted = set()
    rows = np.array([i for i, image in enumerate(ids) if image in wanted], dtype=np.int64)
    return list(said.values()), table.y[table.positions(ids)], rows


def for_report(project: Project) -> dict[str, Any] | None:
    """The captions by image, the words of the filter, and what stands out; None where there are none."""
    if not project.has("captions"):
        return None
    now, names = described(project), project.table().class_names
    by_image: dict[str, dict[str, Any]] = {}
    on = {w.word for w in now.words if w.on}
    for c in now.captions:
        card = by_image.setdefault(
            c.image_id, {"id": c.image_id, "label": names[c.label], "texts": []}
        )
        parts = [(p, not on.isdisjoint(textfilter.words_of(p))) for p in c.text.split()]
        card["texts"].append({"parts": parts, "kept": c.kept})
    return {
        "images": list(by_image.values()),
        "model": now.config["model"],
        "stop_words": now.stop_words,
        "in_words": [f.text for f in in_words(project)],
    }


def edit_caption(project: Project, number: int, text: str, key: str) -> None:
    """Put a caption in another's place; an empty one is drawn from no more.

    Raises:
        UserError: when there is no such caption, or the text is too long.
    """
    now = described(project)
    if not 0 <= number < len(now.captions):
        raise UserError(f"There is no caption {number}.")
    _change(project, now, [(f"caption:{number}", _checked(text))], key)


def replace_in_captions(project: Project, find: str, with_: str, key: str) -> int:
    """Replace a text in all captions at once; returns in how many it stood.

    Raises:
        UserError: when it stands in none, or a text is empty or too long.
    """
    if not find.strip():
        raise UserError("Give the words to look for.")
    now, find, with_ = described(project), _checked(find), _checked(with_)
    count = sum(find in c.text for c in now.captions)
    if count == 0:
        raise UserError(f"“{find[:80]}” stands in no caption.")
    text = json.dumps({"find": find, "with": with_}, ensure_ascii=False)
    _change(project, now, [("replace:", text)], key)
    return count


def switch_words(project: Project, words: dict[str, bool], key: str) -> None:
    """Strike words of the text filter (False) or add some (True).

    Raises:
        UserError: when something is no word, or there are too many.
    """
    now, changes = described(project), []
    for word, on in words.items():
        parts = textfilter.words_of(word[:LONGEST])
        if len(parts) != 1:
            raise UserError(f"“{word[:40]}” is not one word.")
        changes.append((f"word:{parts[0]}", "on" if on else "off"))
    if len(now.words) + len(changes) > MOST_WORDS:
        raise UserError(f"The text filter has at most {MOST_WORDS} words.")
    _change(project, now, changes, key)


def undo(project: Project) -> None:
    """Take the last change back."""
    judgements.undo(project.db, project.name, _log_id(described(project).id))


def prompts(project: Project, now: Described, config: DrawConfig) -> tuple[Prompt, ...]:
    """What is drawn from: the captions as they stand, with `config.recombine` in every look that they name.

    Raises:
        UserError: when captions are to be recombined and name no looks.
    """
    from debias_core.insight.keywords import looks

    some = now.prompts(text_filter=config.text_filter)
    if not config.recombine:
        return some
    captions, y, chosen = _spoken(project, None)
    own, every = looks(captions, y, chosen, textfilter.words_of, textfilter.stop_words().words)
    if len(every) < 2:
        raise UserError(
            "The captions name no looks to recombine: nothing that most images of a class say is "
            "missing where the bias classifier errs. Describe more images (a higher K), or draw as they are."
        )
    return diffubias.recombined(some, own, every)


def _rest(
    project: Project, table: ImageTable, top: Sequence[str], config: CaptionConfig
) -> list[str]:
    """Training images beside the top-K, evenly over the classes, the same for the same seed."""
    train = table.where("train")
    rows = np.setdiff1d(np.arange(len(train)), train.positions(project.audit().top_k.ids))
    rng, classes = np.random.default_rng([config.seed, 6]), np.unique(train.y[rows])
    each = -(-config.rest // max(1, len(classes)))
    drawn = [rng.permutation(rows[train.y[rows] == c])[:each] for c in classes]
    chosen = np.concatenate(drawn)[: config.rest] if drawn else rows[:0]
    return [str(i) for i in train.ids[chosen]]


def _said(project: Project, image: str, asked: str) -> list[str] | None:
    rows = project.db.rows(
        "SELECT texts FROM captions WHERE image = ? AND asked = ?", (image, asked)
    )
    return json.loads(rows[0]["texts"]) if rows else None


def _log_id(captions: str) -> str:
    return f"captions-{captions}"


def _change(project: Project, now: Described, changes: Sequence[tuple[str, str]], key: str) -> None:
    decisions = [
        judgements.Judgement(f"{key}-{i}", item, text) for i, (item, text) in enumerate(changes)
    ]
    judgements.record(project.db, project.name, _log_id(now.id), decisions, None)


def _checked(text: str) -> str:
    if len(text) > LONGEST:
        raise UserError(f"A caption has at most {LONGEST} characters, not {len(text):,}.")
    return _plain(text)


def _plain(text: str) -> str:
    """One line without control characters, at most LONGEST characters long."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:LONGEST]
