"""The rules: each claim in plain words, how it is judged, and the function of the tasks that judges it.

Law: a rule is text and code side by side, and the text stands in every report of the verdict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from aggregate import equivalence, gains, orders, probed
from aggregate.claim import Claim, Part
from aggregate.evidence import Evidence, all_of, any_of
from aggregate.grid import Subject
from aggregate.judging import Combine, evidence_of

Judge = Callable[[Sequence[Subject]], list[Part]]


@dataclass(frozen=True)
class Rule:
    """One claim and how it is judged."""

    id: str
    text: str
    rule: str
    judge: Judge
    combine: Combine = all_of
    """How its parts make the claim."""


def _each(judge: Callable[[Subject], Part | list[Part]]) -> Judge:
    """The parts of every task."""

    def judged(subjects: Sequence[Subject]) -> list[Part]:
        found = [judge(subject) for subject in subjects]
        return [part for parts in found for part in ([parts] if isinstance(parts, Part) else parts)]

    return judged


def _inits(subjects: Sequence[Subject]) -> list[Part]:
    """E11's parts, and beside them E1 to E3 under either initialisation, where both are there."""
    parts = _each(equivalence.inits)(subjects)
    if not any(part.estimates for part in parts):
        return parts
    for init in ("truncated_normal", "released"):
        under = [subject.under(init) for subject in subjects]
        for rule in RULES[:3]:
            judged = judged_by(rule, under)
            where = f"{rule.id} under init {init}"
            parts.append(Part(where, judged.verdict, judged.reason, judged=False))
    return parts


_ALL = "It holds where every part holds, and fails where one fails after Holm's correction."
_ANY = "It holds where one part holds after Holm's correction, and fails where every part fails."

RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "E1",
        "How much of the gain the lower layers bring depends strongly on the size of the dataset.",
        "The share of the gain recovered at k = depth / 3 differs between the largest and the smallest size by more "
        f"than 10 points (Fieller's intervals, their difference by MOVER). {_ALL}",
        _each(gains.dependence),
    ),
    Rule(
        "E2",
        "Parameters that help greatly with plentiful data may be worth nothing with little.",
        "The first two of twelve layers bring more than 10% of the gain at the largest size, and within ±10% of it at "
        f"the smallest, in the same task. {_ANY}",
        _each(gains.worthless),
        any_of,
    ),
    Rule(
        "E3",
        "The less data, the more the middle and later layers matter.",
        "Redrawing the upper half (k = depth / 2) loses more at the smallest size than at the largest: paired where "
        f"both have the same seeds, else Welch. {_ALL}",
        _each(gains.depth_with_less_data),
    ),
    Rule(
        "E4",
        "A layer with high probing performance is not necessary.",
        "Redrawing some single layer or block of three that probes high (within the top tenth of the probe curve's own "
        f"range) loses less than 10% of the gain. {_ANY}",
        _each(probed.unnecessary),
        any_of,
    ),
    Rule(
        "E5",
        "A block of layers with high probing performance is not sufficient.",
        "Keeping only some block of three that probes high (within the top tenth of the probe curve's own range) "
        f"brings less than 10% of the gain over k = 0. {_ANY}",
        _each(probed.insufficient),
        any_of,
    ),
    Rule(
        "E6",
        "The less data, the more the progressive curve is aligned with probing.",
        "With both curves rescaled to their own gain from k = 1 to the top, the largest gap between them is smaller at "
        f"the smallest size than at the largest (seeds resampled), for each kind of probe. {_ALL}",
        _each(probed.aligning),
    ),
    Rule(
        "E7",
        "For QNLI the first four layers give most of the gain; CoLA and SST-2 also need the middle layers.",
        "QNLI at k = depth / 3 has more than half of the gain; CoLA and SST-2 gain more than another 10% of it from "
        f"there to k = 2 depth / 3; at 5,000 examples, or else the largest size. {_ALL}",
        gains.by_task,
    ),
    Rule(
        "E8",
        "Reordering the pretrained layers before finetuning significantly harms.",
        f"The mean over orders is below plain finetuning (Welch, orders against seeds). {_ALL}",
        _each(orders.harmed),
    ),
    Rule(
        "E9",
        "Pretraining is not just a better initialiser of each layer: permuted models fall well short.",
        "The mean over orders is below 90% of plain finetuning plus 10% of every layer redrawn (Welch, orders against "
        f"seeds). {_ALL}",
        _each(orders.short),
    ),
    Rule(
        "E10",
        "Keeping LayerNorm, or a larger learning rate of the redrawn layers, does not change the picture.",
        "At every k the variant's score is within 10% of the gain of the main curve's, paired by seed; each variant is "
        f"judged on its own. {_ALL}",
        equivalence.variants,
    ),
    Rule(
        "E11",
        "The curves are the same with the intended and with the released initialisation.",
        "At every k the two are within 10% of the gain of each other, paired by seed; E1 to E3 under each stand "
        f"beside it. {_ALL}",
        _inits,
    ),
    Rule(
        "E12",
        "With the released initialisation, redrawing all but the first k layers is like cutting the network to k.",
        "At every k that both have, the two are within 10% of the gain of each other, paired by seed. " + _ALL,
        _each(equivalence.truncations),
    ),
    Rule(
        "E13",
        "Probes score the same in memory and after the released code's reload.",
        "At every depth the two are within 10% of the finetuning gain at that size (Welch), or of the probe's own "
        f"range where there are no finetunes. {_ALL}",
        _each(equivalence.reloads),
    ),
)  # fmt: skip


def judged_by(rule: Rule, subjects: Sequence[Subject], model: str = "", recipe: str = "") -> Claim:
    """The claim by its rule, on the tasks of one model and recipe."""
    parts = tuple(rule.judge(subjects))
    evidence = rule.combine(evidence_of(parts))
    return Claim(
        id=rule.id,
        text=rule.text,
        verdict=evidence.verdict,
        rule=rule.rule,
        estimates=tuple(estimate for part in parts for estimate in part.estimates),
        reason=_reason(parts, evidence),
        parts=parts,
        model=model,
        recipe=recipe,
    )


def _reason(parts: Sequence[Part], evidence: Evidence) -> str:
    """Where it holds, fails and is open; then why it is open."""
    counted = [part for part in parts if part.judged]
    if not counted:
        return "no finetunes in this frame"
    by_verdict = {name: [part.where for part in counted if part.verdict == name] for name in ("holds", "fails")}
    words = [f"{verdict} for {'; '.join(places)}" for verdict, places in by_verdict.items() if places]
    for reason in dict.fromkeys(part.reason for part in counted if part.verdict == "not enough data"):
        places = [part.where for part in counted if part.reason == reason]
        words.append(f"not enough data for {'; '.join(places)}: {reason}")
    if evidence.verdict == "not enough data" and not any(part.verdict == evidence.verdict for part in counted):
        words.append(f"parts differ, and none decides after Holm's correction for {len(counted)} parts")
    words += [f"{part.where}: {part.verdict}" for part in parts if not part.judged]
    return ". ".join(word[:1].upper() + word[1:] for word in words) + "."
