"""
What the cuts of minilm's flags trade: cruel replies that stay in a kept set against kind ones that are flagged.

    python benchmarks/flag_curve.py ed_test.parquet --json benchmarks/results/flag_curve.json

Each row sets every flag's cut so that it flags its part of a share of the data's true replies, as `ee-trl distill
--false-flags SHARE` does, and scores the check set with these cuts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ee_trl import Dialogue, load_scorer
from ee_trl.axes import AXES, quadrants
from ee_trl.data.reading import open_rows
from ee_trl.data.samples import read_samples
from ee_trl.display import Table, percent
from ee_trl.files import write_json
from ee_trl.reports.check_set import set_cases
from ee_trl.scoring.biencoder import BiEncoderScorer, encode_apart, flag_odds, head_outputs, text_vectors


SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
KINDS = ("cruel", "mocking", "blaming", "dismissive", "off_topic", "swapped", "kind", "feeling", "advice")


def odds_of(scorer: BiEncoderScorer, dialogues: list[Dialogue]) -> np.ndarray:
    """The log odds of each flag, shape `(n, flags)`."""
    inputs, budget = scorer.settings.inputs, scorer.token_budget
    vectors = [
        text_vectors(scorer.model, scorer.tokenizer, texts, budget, inputs.max_length)[0]
        for texts in encode_apart(inputs, scorer.tokenizer, dialogues)
    ]
    return flag_odds(head_outputs(scorer.head, *vectors))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="dialogues with true replies that the scorer did not learn from")
    parser.add_argument("--rows", type=int, default=1_500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    scorer = load_scorer("minilm")
    assert isinstance(scorer, BiEncoderScorer)
    samples = [sample.dialogue for sample in read_samples(open_rows(args.data), "last") if sample.dialogue]
    true = odds_of(scorer, samples[:: max(1, len(samples) // args.rows)][: args.rows])
    cases = [case for case in set_cases() if case.kind in KINDS]
    dialogues, kinds = [case.dialogue for case in cases], np.array([case.kind for case in cases])
    odds, scores = odds_of(scorer, dialogues), scorer.score(dialogues)
    in_a_set = np.isin(quadrants(*scores.T), AXES)
    rows = []
    for share in SHARES:
        flagged = (odds >= np.quantile(true, 1 - share / true.shape[1], axis=0)).any(axis=1)
        kept = {kind: float((in_a_set & ~flagged)[kinds == kind].mean()) for kind in KINDS}
        rows.append({"false_flags": share, "kept": kept, "kind_flagged": float(flagged[kinds == "kind"].mean())})
    head = ("true replies flagged", *(f"{kind}, kept" for kind in KINDS), "kind, flagged")
    cells = [
        (percent(row["false_flags"]), *(percent(row["kept"][kind]) for kind in KINDS), percent(row["kind_flagged"]))
        for row in rows
    ]
    print(Table(head, cells).markdown())
    if args.json:
        write_json(args.json, {"data": Path(args.data).name, "true_replies": len(true), "rows": rows})


if __name__ == "__main__":
    main()
