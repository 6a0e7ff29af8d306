"""The run of a mixture's routers: trained on the selected dialogues, with a report on how they route."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel
from peft import LoraConfig
from transformers import AutoConfig

from ..axes import AXES, SENSIBILITY, quadrants
from ..data.tables import label_names
from ..errors import CompositionError
from ..files import read_json, write_json
from ..moe.compose import compose_moe
from ..moe.routing import measure_routing
from ..moe.routing_report import PAGE, PICTURE, RECORD, summarise_routing, write_router_report
from ..moe.training import ATTENTION, RouterSFTTrainer, check_arguments, check_config
from ..selector import EmpathyDataSelector
from .arguments import ExpertArguments, MoEArguments
from .command_line import parse_recipe_args, recipe_parser
from .data import EMBEDDED, read_rows
from .demo_model import is_pretrained
from .expert import SELECTION_DIR, ExpertRun
from .tiny_model import build_tiny_causal_lm


BEFORE = "routing_before.json"
GATE_SAMPLES = 32
"""Rows of each set for the gates of the demonstration's mixture: more take minutes on a CPU."""


class MoERun(ExpertRun):
    """One training run of a mixture's routers, and its folder; see [`~ee_trl.training.run.RecipeRun`]."""

    args: MoEArguments
    tiny = "tiny_moe"
    trainer_class = RouterSFTTrainer

    def build_tiny(self, folder: Path) -> None:
        """Composes two tiny random models, for the demonstration."""
        if folder.exists():
            return
        print(f"No model named: two tiny random models are composed in {folder} ({EMBEDDED}'s tokenizer).")
        named = {name: folder.with_name(f"tiny_{name}") for name in AXES}
        experts = {name: build_tiny_causal_lm(own, seed=i) for i, (name, own) in enumerate(named.items(), start=1)}
        compose_moe(experts[SENSIBILITY], experts, folder)

    @property
    def model(self) -> str:
        """The mixture that the model's name says; for the demonstration's chat model, one of both its experts."""
        return self._of_a_chat_model() if self._demonstrates else super().model

    @property
    def _demonstrates(self) -> bool:
        return self.model_args.model_name_or_path is not None and is_pretrained(self.model_args.model_name_or_path)

    def _of_a_chat_model(self) -> str:
        """Trains both experts of the chat model, on as many rows as the router, and composes them."""
        base, mixture = str(self.model_args.model_name_or_path), self.folder / "mixture"
        own = {option.name: getattr(self.args, option.name) for option in fields(ExpertArguments)}
        experts = {axis: self.folder / f"expert_{axis}" for axis in AXES}
        for axis, folder in experts.items():
            given = ["--output_dir", str(folder)]
            for name in ("max_steps", "max_length", "per_device_train_batch_size"):
                given += [f"--{name}", str(getattr(self.training_args, name))]
            _, training_args, model_args = parse_recipe_args(recipe_parser(ExpertArguments), given)
            ExpertRun(ExpertArguments(**own | {"empathy_keep": axis}), training_args, model_args).run(end=False)
        if self.state.is_main_process and not mixture.exists():
            sets = {axis: read_rows(f / SELECTION_DIR / "selected.parquet") for axis, f in experts.items()}
            compose_moe(base, experts, mixture, gate_data=sets, gate_samples=GATE_SAMPLES)
        self.state.wait_for_everyone()
        return str(mixture)

    def peft_config(self) -> LoraConfig | None:
        """TRL's LoRA, on the attention unless it names its modules; `None` without `use_peft`."""
        if self.model_args.use_peft and self.model_args.lora_target_modules is None:
            self.model_args.lora_target_modules = list(ATTENTION)
        return super().peft_config()

    def check(self) -> None:
        """Raises [`CompositionError`] for a model or settings that no router can be trained with."""
        if self.model_args.load_in_4bit or self.model_args.load_in_8bit:
            raise CompositionError(
                "the router of a quantized model is not trained: leave out load_in_4bit and load_in_8bit; quantize "
                "the trained model with ee_trl.moe.quantize.load_in_4bit"
            )
        if (name := self.model_args.model_name_or_path) and not self._demonstrates:
            config: Any = AutoConfig.from_pretrained(name, revision=self.model_args.model_revision)
            check_config(config)
            lora: Any = self.peft_config()
            check_arguments(self.training_args, config, None if lora is None else lora.target_modules)

    def train(self, trainer: Any) -> bool:
        """Trains, or resumes, and reports how the mixture routes before and after."""
        before = self.folder / BEFORE
        if not before.exists():  # of a run that was interrupted
            record = self._routing(trainer)
            self.state.wait_for_everyone()
            if self.state.is_main_process:
                write_json(before, record)
        self.state.wait_for_everyone()
        trained = super().train(trainer)
        trainer.merge()
        record = self._routing(trainer)
        if self.state.is_main_process:
            write_router_report(self.folder, read_json(before), record)
        return trained

    def _routing(self, trainer: Any) -> dict[str, Any]:
        selected = self.folder / SELECTION_DIR / "selected.parquet"
        rows, groups = report_rows(selected, self.args.empathy_report_rows, self.selector)
        return summarise_routing(measure_routing(trainer.model, trainer.processing_class, rows), groups)

    def data_section(self) -> str:
        """The data and the router."""
        experts = ", ".join(read_json(self.folder / RECORD)["after"]["experts"])
        lora = " (and a LoRA on the attention, folded in)" if self.model_args.use_peft else ""
        return (
            f"{super().data_section()}\n## The router\n\nExperts: {experts}. Only the routers were trained{lora}. How "
            f"they route: [{PAGE}]({PAGE}).\n"
        )

    def left_behind(self) -> str:
        """The selection and the router report."""
        there = [name for name in (PAGE, PICTURE, RECORD) if (self.folder / name).exists()]
        return f"{super().left_behind()}, {', '.join(there)} (how it routes)"


def report_rows(
    path: Path, number: int, selector: EmpathyDataSelector
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """At most `number` rows, equally many of each quadrant if possible, and the quadrant and emotion of each."""
    table = read_rows(path)
    sensibility, rationality = (np.asarray(table[axis], float) for axis in AXES)
    names = quadrants(sensibility, rationality, threshold=selector.threshold, ties=selector.ties)
    kinds = list(dict.fromkeys(names.tolist()))
    chosen = np.sort(np.concatenate([np.flatnonzero(names == kind)[: max(number // len(kinds), 1)] for kind in kinds]))
    rows = table.select(chosen.tolist()).to_list()
    groups = {"quadrant": [str(names[i]) for i in chosen]}
    if "emotion" in table.column_names:
        kind, emotions = table.features["emotion"], [row["emotion"] for row in rows]
        named = label_names(kind, emotions) if isinstance(kind, ClassLabel) else emotions
        groups["emotion"] = ["" if emotion is None else str(emotion) for emotion in named]
    return rows, groups
