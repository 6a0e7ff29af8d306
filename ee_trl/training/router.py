"""From a composed mixture to one with a trained router: the run of the recipe `sft_moe.py`, and its router report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..axes import AXES
from ..data.tables import label_names
from ..errors import CompositionError
from ..files import write_json
from ..moe.routing_report import PAGE, PICTURE, RECORD, summarise_routing, write_router_report
from .expert import SELECTION_DIR, ExpertRun
from .run import EMBEDDED


if TYPE_CHECKING:
    from peft import LoraConfig

    from ..moe.training import RouterSFTTrainer
    from .arguments import MoEArguments

BEFORE = "routing_before.json"


class MoERun(ExpertRun):
    """
    One training run of a mixture's routers, and its folder.

    Args:
        args (`MoEArguments`): The data.
        training_args, model_args: See [`~ee_trl.training.run.RecipeRun`].
    """

    args: MoEArguments

    @property
    def model(self) -> str:
        """The composed mixture; without one named, two tiny random models are composed in the folder, and said."""
        if self.model_args.model_name_or_path:
            return self.model_args.model_name_or_path
        with self.state.main_process_first():
            if self.state.is_main_process:
                compose_tiny(self.folder)
        return str(self.folder / "tiny_moe")

    def peft_config(self) -> LoraConfig | None:
        """TRL's LoRA, on the attention unless it names its modules; `None` without `use_peft`."""
        from trl import get_peft_config

        from ..moe.training import ATTENTION

        if self.model_args.use_peft and self.model_args.lora_target_modules is None:
            self.model_args.lora_target_modules = list(ATTENTION)
        return get_peft_config(self.model_args)  # type: ignore[return-value]

    def check(self) -> None:
        """Raises [`CompositionError`] for a model or settings that no router can be trained with."""
        if self.model_args.load_in_4bit or self.model_args.load_in_8bit:
            raise CompositionError(
                "the router of a quantized model is not trained: leave out load_in_4bit and load_in_8bit; quantize "
                "what comes out with ee_trl.moe.quantize.load_in_4bit"
            )
        if self.model_args.model_name_or_path:
            from transformers import AutoConfig

            from ..moe.training import check_arguments, check_config

            config: Any = AutoConfig.from_pretrained(
                self.model_args.model_name_or_path, revision=self.model_args.model_revision
            )
            check_config(config)
            lora: Any = self.peft_config()
            check_arguments(self.training_args, config, None if lora is None else lora.target_modules)

    # -- the report

    def measure(self, trainer: RouterSFTTrainer) -> None:
        """Looks at the routing: before the training it is kept, after it both are reported."""
        path = self.folder / BEFORE
        if trainer.state.global_step == 0:
            if path.exists():  # of a run that was interrupted
                return
            record = self._summary(trainer)
            self.state.wait_for_everyone()
            if self.state.is_main_process:
                write_json(path, record)
            self.state.wait_for_everyone()
            return
        record = self._summary(trainer)
        if self.state.is_main_process:
            write_router_report(self.folder, json.loads(path.read_text(encoding="utf-8")), record)

    def _summary(self, trainer: RouterSFTTrainer) -> dict[str, Any]:
        from ..moe.routing import measure_routing

        selected = self.folder / SELECTION_DIR / "selected.parquet"
        rows, groups = report_rows(selected, self.args.empathy_report_rows, self)
        return summarise_routing(measure_routing(trainer.model, trainer.processing_class, rows), groups)

    def data_section(self) -> str:
        """The model card's section on the data and the router."""
        record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        experts = ", ".join(record["after"]["experts"])
        return (
            f"{super().data_section()}\n## The router\n\nExperts: {experts}. Only the routers were trained"
            f"{' (and a LoRA on the attention, folded in)' if self.model_args.use_peft else ''}. How they route: "
            f"[{PAGE}]({PAGE}).\n"
        )

    def left_behind(self) -> str:
        """The selection and the router report."""
        there = [name for name in (PAGE, PICTURE, RECORD) if (self.folder / name).exists()]
        return f"{super().left_behind()}, {', '.join(there)} (how it routes)"


def report_rows(path: Path, number: int, run: ExpertRun) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """
    Dialogues for the report, as many of each quadrant as there are, up to a number in all.

    Args:
        path (`Path`): The selected rows.
        number (`int`): How many in all.
        run (`ExpertRun`): With the selector, whose thresholds say what the quadrants are.

    Returns:
        `tuple`: rows with `prompt` and `completion`, and for `"quadrant"` and, where there is one, `"emotion"` the
        group of each.
    """
    import numpy as np
    from datasets import ClassLabel, Dataset

    from ..axes import quadrants

    table = Dataset.from_parquet(str(path))
    scores = [np.asarray(table[axis], float) for axis in AXES]
    names = quadrants(scores[0], scores[1], threshold=run.selector.threshold, ties=run.selector.ties)
    kinds = list(dict.fromkeys(names.tolist()))
    chosen = np.sort(np.concatenate([np.flatnonzero(names == kind)[: max(number // len(kinds), 1)] for kind in kinds]))
    rows = table.select(chosen.tolist()).to_list()
    groups = {"quadrant": [str(names[i]) for i in chosen]}
    if "emotion" in table.column_names:
        kind, emotions = table.features["emotion"], [row["emotion"] for row in rows]
        names_of = label_names(kind, emotions) if isinstance(kind, ClassLabel) else emotions
        groups["emotion"] = ["" if emotion is None else str(emotion) for emotion in names_of]
    return rows, groups


def compose_tiny(folder: Path) -> None:
    """Two tiny random models, composed: what the demonstration trains the router of."""
    from ..moe.compose import compose_moe
    from .tiny_model import build_tiny_causal_lm

    if (folder / "tiny_moe").exists():
        return
    print(f"No model named: two tiny random models are composed in {folder / 'tiny_moe'} ({EMBEDDED}'s tokenizer).")
    names = ("sensibility", "rationality")
    experts = {name: build_tiny_causal_lm(folder / f"tiny_{name}", seed=i) for i, name in enumerate(names, start=1)}
    compose_moe(experts["sensibility"], experts, folder / "tiny_moe")
