"""The model card of the scorer "linear", filled in by `train_linear_scorer.py` so that no figure is typed by hand."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from string import Template
from typing import Any

from ee_trl.scoring.fitness import TOPICS


_TEMPLATE = Template("""\
---
license: cc-by-nc-4.0
language: en
library_name: ee-trl
tags:
- empathy
- data-selection
- regression
datasets:
- facebook/empathetic_dialogues
metrics:
- spearmanr
---

<!-- Written by scripts/train_linear_scorer.py; change the template in scripts/linear_scorer_card.py. -->

# The scorer "linear"

Rates a listener's reply in an English empathetic dialogue on two axes, each from 0 to 10: **sensibility** (the reply
shares, names or soothes the feeling) and **rationality** (it reasons about the situation: asks, explains, advises).
It imitates an LLM judge, cheaply: no GPU, no network, no model download. `$fingerprint`

**Non-commercial use only**: see Licence below.

## Data

Fitted to $rows replies in $conversations conversations: the validation part of EmpatheticDialogues (Rashkin et al.
2019, CC BY-NC 4.0). Their scores are an LLM's, published by the authors of Efficient-Empathy (arXiv 2407.01937); their
repository states no licence, and the LLM's prompt is not known. The weights hold no text of the data: they are
numbers at hashed positions.

## Model

Two ridge regressions over the same features, on a half-and-half mix of the judge's ranks and scores:

- words of the reply (1- to 3-grams) and character n-grams inside them (2 to 5),
- words of the utterance before the reply (1- and 2-grams), and of the two before that (1-grams),
- surface features: length, question and exclamation marks, first and second person, place in the dialogue.

Text is lower-cased, contractions are written out and punctuation is split off, so tokenised and natural text score
alike. Each axis is then brought to the judge's scale by an increasing, piecewise linear map, set from out-of-fold
predictions.

## How well it agrees with the judge

$folds-fold cross-validation; no conversation is in two folds, and n-gram rarities, weights and calibration are learnt
from the other folds only. The settings were chosen on another split of the same data. Rank correlation with the judge
(Spearman):

| | sensibility | rationality |
|---|---|---|
| mean over folds | $mean_s | $mean_r |
| lowest, highest fold | $range_s | $range_r |
| pooled | $pooled_s | $pooled_r |

The released rule sorts replies into three: sensibility set (S > T, R < T), rationality set (R > T, S < T), discarded.
Agreement with the judge's sorting, pooled; "majority" always answers the judge's most frequent class (its kappa is 0):

| T | agreement | majority | Cohen's kappa | sensibility share | judge's | rationality share | judge's |
|---|---|---|---|---|---|---|---|
$table

That is **moderate** agreement: good enough to filter a large set, not to judge one reply.

$flags## Speed

$speed

## What it is not good for

- replacing an LLM or human judge: it agrees only moderately with the judge it imitates, and shares its biases;
- judging single replies, or comparing two models by small differences of their means;
- languages other than English: the numbers mean nothing there;
- long counselling texts, forum posts, stories: it has seen short chat turns of crowd workers;
- relations of meaning: it counts words and does not understand them. It misses hostility in polite words, irony,
  advice that does not help; it flags good replies in words that it does not know. Use a scorer that reads context and
  reply together where that matters (a distilled encoder or a judge);
- text written to please it, prompt-injected or otherwise adversarial;
- clinical use, or any decision about a person.

## Licence

The weights are learnt from CC BY-NC 4.0 data and are under CC BY-NC 4.0: non-commercial use only, with attribution
(`LICENSE` in this folder). The code that uses them is under Apache-2.0. For commercial use, train weights on data of
your own with `scripts/train_linear_scorer.py` and give their folder to `LinearScorer`, or use another scorer.

## Made with

`$command`

Python $python, NumPy $numpy, SciPy $scipy. All figures, also by fold: `metrics.json`.
""")


def render(metrics: Mapping[str, Any], speed: Mapping[str, Any] | None) -> str:
    """
    The card as Markdown.

    Args:
        metrics (`Mapping[str, Any]`):
            Content of `metrics.json`.
        speed (`Mapping[str, Any]`, *optional*):
            Content of the file that `benchmarks/linear_scorer.py` writes; `None` if it has not been measured.

    Returns:
        `str`
    """
    folds = [row["spearman"] for row in metrics["by_fold"]]
    columns = ("agreement", "majority_agreement", "kappa", "sensibility_share", "judge_sensibility_share")
    columns += ("rationality_share", "judge_rationality_share")
    lines = []
    for threshold, row in metrics["by_threshold_pooled"].items():
        cells = [f"{row[c]:.3f}" if c == "kappa" else f"{100 * row[c]:.1f} %" for c in columns]
        lines.append(f"| {' | '.join([threshold, *cells])} |")
    figures = {"table": "\n".join(lines), "speed": _speed(speed), "flags": _flags(metrics.get("flags"))}
    for axis in ("sensibility", "rationality"):
        values = [fold[axis] for fold in folds]
        figures[f"mean_{axis[0]}"] = f"{metrics['spearman_mean_over_folds'][axis]:.3f}"
        figures[f"pooled_{axis[0]}"] = f"{metrics['spearman_pooled'][axis]:.3f}"
        figures[f"range_{axis[0]}"] = f"{min(values):.3f}, {max(values):.3f}"
    plain = {name: metrics[name] for name in ("fingerprint", "folds", "command")}
    counts = {name: f"{metrics[name]:,}" for name in ("rows", "conversations")}
    return _TEMPLATE.substitute(figures | plain | counts | metrics["versions"])


_FLAGS = Template("""\
## Flags

Whether a reply fits its context is a model of its own (multinomial logistic regression): words and pairs of words of
the reply, the surface features, what the reply repeats of itself and of the turns before it, glad and sad words of
both sides, how many of its pairs of words are common, and $topics products of topic vectors of both sides.

A reply with an appropriateness below 0.5 gets a flag and is not selected. That is learnt from the replies of
EmpatheticDialogues' training part and good replies of the embedded sample, against bad replies made from them
(`ee_trl/distillation/negatives.py`). Of $true_replies true replies of its test part, $false_flags are flagged. Bad
replies made to the same contexts, with the same grammar; those in other words are missed more often, see
`ee-trl check`:

| made reply | flagged | AUC against true replies |
|---|---|---|
$kinds

How many a single cut would flag, by the share of the true replies that it flags:

| true replies | $names |
|---|$rule
$curve

""")


def _flags(flags: Mapping[str, Any] | None) -> str:
    if flags is None:
        return ""

    def row(first: str, shares: Mapping[str, float], *more: str) -> str:
        return f"| {' | '.join([first, *(f'{100 * share:.0f} %' for share in shares.values()), *more])} |"

    kinds = [row(kind, {kind: share}, f"{flags['auc'][kind]:.2f}") for kind, share in flags["flagged"].items()]
    return _FLAGS.substitute(
        topics=TOPICS,
        true_replies=f"{flags['true_replies']:,}",
        false_flags=f"{100 * flags['false_flags']:.1f} %",
        kinds="\n".join(kinds),
        names=" | ".join(flags["auc"]),
        rule="---|" * len(flags["auc"]),
        curve="\n".join(row(f"{100 * found['false_flags']:.0f} %", found["flagged"]) for found in flags["curve"]),
    )


def _speed(speed: Mapping[str, Any] | None) -> str:
    if speed is None:
        return "Not measured for this card; run `benchmarks/linear_scorer.py`."
    first, later = (round(speed[key], -3) for key in ("first_pass_per_second", "median_per_second"))
    text = (
        f"About {first:,.0f} samples per second on one core in a fresh process, {later:,.0f} once most words have "
        f"been seen (median of {speed['repeats']} passes over {speed['samples']:,} samples, from `Dialogue` objects "
        f"to scores); {speed['construction_seconds']:.2f} s to load. Measured on {speed['machine']}."
    )
    return textwrap.fill(text, 118)
