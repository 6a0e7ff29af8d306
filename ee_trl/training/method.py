"""The whole method: score, select, train experts and baselines, compose, train the router, evaluate side by side."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import os
import shutil
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..axes import RATIONALITY, SENSIBILITY
from ..moe.checkpoint import digest
from .arguments import ExpertArguments, MoEArguments
from .method_data import EVERYTHING, held_out, read_rows, write_scored, write_sets
from .run import _content_of, identity_of, several_runs
from .stages import Stage, Stages


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig

    from .arguments import PipelineArguments

EXPERTS = (SENSIBILITY, RATIONALITY)
UNION, BASE, MIXTURE = "union", "base", "moe"
_OF_A_BASE = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
"""What a base that is given is known by: weights, settings, tokenizer and chat template."""


class EfficientEmpathy:
    """
    One run of the whole method, and its folder.

    Args:
        args (`PipelineArguments`): Data, selection, and what the stages differ in.
        training_args (`SFTConfig`): TRL's, for the experts; `output_dir` is the run's folder.
        model_args (`ModelConfig`): TRL's; without a model, a tiny one is trained first.
    """

    def __init__(self, args: PipelineArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
        from accelerate import PartialState

        self.args, self.training_args, self.model_args = args, training_args, model_args
        self.state = PartialState()
        self.folder = Path(training_args.output_dir or "trainer_output").resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stages = Stages(self.folder, self.state)
        self.selector = args.make_selector()
        self.base_name: str | None = None  # what the experts call their base; by default its folder

    def run(self) -> Path:
        """Does what is not there yet; gives the report."""
        score = self._score()
        select = self._select(score)
        base = self._base(score)
        experts = {name: self._expert(name, select, base) for name in (*EXPERTS, UNION)}
        pair = {name: experts[name] for name in EXPERTS}
        average = self._average(pair, base)
        composed = self._compose(pair, base, select)
        router = self._router(composed, score)
        models = {"base": base, **experts, "average": average, "moe_start": composed, MIXTURE: router}
        return self._evaluate(models, score, select, router)

    # -- data

    def _score(self) -> Stage:
        """Scores the dialogues to train on and those held out; given scores are used as they are."""
        args = self.args
        inputs = {
            "dataset": _content_of(args.dataset),
            "dataset_test": _content_of(args.empathy_dataset_test) if args.empathy_dataset_test else None,
            "splits": [args.dataset_config, args.dataset_train_split, args.dataset_test_split, args.empathy_holdout],
            "holdout_seed": args.empathy_seed if args.draws_holdout else None,
            "scorer": self.selector.scorer.fingerprint,
            "turns": self.selector.turns,
            "ee-trl": __version__,
        }
        one_machine = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) == self.state.num_processes
        shared = self.state.num_processes > 1 and one_machine

        def work(folder: Path) -> None:
            write_scored(folder, self.selector, self.args, shared=shared, write=self.state.is_main_process)

        done = self.stages.run("score", inputs, work, together=shared)
        self.selector = self.args.make_selector()  # a judge's weights are not needed any more
        return done

    def _select(self, score: Stage) -> Stage:
        """Writes the set of each expert, their union, and why the rest was left out."""
        selector = self.selector
        inputs = {
            "score": score.digest,
            "threshold": selector.threshold,
            "ties": selector.ties,
        }
        rule = {name: value for name, value in self.args.rule_options().items() if name != "keep"}
        sets = {axis: axis for axis in EXPERTS} | {UNION: ",".join(EXPERTS)}
        scored = score.folder / "train.parquet"
        return self.stages.run(
            "select", inputs | rule, lambda folder: write_sets(folder, scored, self.selector, rule, sets)
        )

    # -- models

    def _base(self, score: Stage) -> Stage:
        """The model named; without one, a tiny one that is trained on all dialogues first."""
        given = self.model_args.model_name_or_path
        if given:
            from ..moe.checkpoint import resolve_folder

            folder = resolve_folder(given, self.model_args.model_revision).resolve()
            self.base_name = str(folder) if Path(given).is_dir() else given
            return Stage(BASE, folder, digest(folder, _OF_A_BASE), reused=True)
        from ..recipes import sft_sensibility

        return self._train(
            BASE, sft_sensibility, ExpertArguments, score.folder / "train.parquet", score.digest,
            overrides=self.args.training("base"), model=None,
        )  # fmt: skip

    def _expert(self, name: str, select: Stage, base: Stage) -> Stage:
        from ..recipes import sft_sensibility

        path = select.folder / f"{name}.parquet"
        steps = self.training_args.max_steps
        own = {"max_steps": len(EXPERTS) * steps} if name == UNION and steps > 0 else {}  # as many as both have
        content = _content_of(str(path))
        return self._train(name, sft_sensibility, ExpertArguments, path, content, overrides=own, model=base)

    def _router(self, composed: Stage, score: Stage) -> Stage:
        from ..recipes import sft_moe

        return self._train(
            "router", sft_moe, MoEArguments, score.folder / "train.parquet", score.digest,
            overrides=self.args.training("router"), model=composed, lora=self.args.empathy_attention_lora_r,
        )  # fmt: skip

    def _train(
        self,
        name: str,
        recipe: ModuleType,
        kind: type[ExpertArguments],
        data: Path,
        content: str | None,
        *,
        overrides: Mapping[str, Any],
        model: Stage | None,
        lora: int | None = None,
    ) -> Stage:
        """Runs a recipe as a stage, on all of a file; the recipe resumes by itself."""
        own = {field.name: getattr(self.args, field.name) for field in dataclasses.fields(ExpertArguments)}
        if name == BASE:  # all rows, whatever the threshold
            own |= {option: getattr(ExpertArguments(), option) for option in ("empathy_threshold", "empathy_ties")}
        own |= {"dataset": str(data), "dataset_train_split": "train", "empathy_rule": "threshold"}
        own |= dict.fromkeys(("dataset_config", "dataset_test_split", "empathy_n", "empathy_fraction", "empathy_axis"))
        arguments = kind(**own | {"empathy_keep": EVERYTHING})
        training = dataclasses.replace(self.training_args, **overrides)
        models = self._model_args(name, model, lora)
        inputs = {
            "data": content,
            "model": model.digest if model else "tiny",
            "processes": self.state.num_processes,
            "threshold": [arguments.empathy_threshold, arguments.empathy_ties],
            "versions": _versions(),
            **identity_of(training, models),
        }
        inputs.pop("model.model_name_or_path")

        def work(folder: Path) -> None:
            with several_runs():
                recipe.main(arguments, dataclasses.replace(training, output_dir=str(folder)), models)
            gc.collect()

        return self.stages.run(name, inputs, work, together=True)

    def _model_args(self, name: str, model: Stage | None, lora: int | None) -> ModelConfig:
        from ..moe.training import ATTENTION

        models = copy.deepcopy(self.model_args)
        models.model_name_or_path = str(model.folder) if model else None
        if model is not None and model.name == BASE:
            models.model_name_or_path = self.base_name or str(model.folder)
        if name == BASE:
            models.use_peft = False
        elif name == "router":
            models.use_peft = bool(lora)
            models.load_in_4bit = models.load_in_8bit = False
            models.lora_target_modules = list(ATTENTION) if lora else None
            models.lora_r, models.lora_alpha = lora or models.lora_r, 2 * (lora or 1)
            models.lora_dropout = 0.0
        return models

    def _average(self, experts: Mapping[str, Stage], base: Stage) -> Stage:
        from ..moe.compose import average_experts

        inputs = {"base": base.digest, **_digests(experts), "ee-trl": __version__}

        def work(folder: Path) -> None:
            shutil.rmtree(folder, ignore_errors=True)  # whole, but of a run that was cut off before it said so
            folders = {name: stage.folder for name, stage in experts.items()}
            revision = self.model_args.model_revision
            average_experts(self.base_name or base.folder, folders, folder, revision=revision)

        return self.stages.run("average", inputs, work)

    def _compose(self, experts: Mapping[str, Stage], base: Stage, select: Stage) -> Stage:
        from ..moe.compose import compose_moe

        options = self.args.compose_options()
        inputs = {
            "base": base.digest,
            **_digests(experts),
            "gate data": select.digest,
            **options,
            "ee-trl": __version__,
        }

        def work(folder: Path) -> None:
            data = None
            if options.get("gate_init") != "zeros":
                data = {name: read_rows(select.folder / f"{name}.parquet") for name in experts}
            folders = {name: stage.folder for name, stage in experts.items()}
            shutil.rmtree(folder, ignore_errors=True)
            revision = self.model_args.model_revision
            compose_moe(self.base_name or base.folder, folders, folder, gate_data=data, revision=revision, **options)

        return self.stages.run("compose", inputs, work)

    # -- the end

    @cached_property
    def _held_out(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Held-out rows and their quadrants; replies are for the first ones."""
        path = self.stages.done["score"].folder / "test.parquet"
        return held_out(path, self.selector, self.args.empathy_eval_samples, self.args.empathy_seed)

    def _evaluate(self, models: Mapping[str, Stage], score: Stage, select: Stage, router: Stage) -> Path:
        """Evaluates each model, and writes the report."""
        from ..files import write_json
        from .method_report import write_side_by_side
        from .side_by_side import evaluate_folder

        options = {
            "replies": self.args.empathy_eval_replies,
            "max_new_tokens": self.args.empathy_max_new_tokens,
        }
        evaluated, made_by = {}, {name: stage.folder.name for name, stage in self.stages.done.items()}
        for name, stage in models.items():
            inputs = {
                "model": stage.digest,
                "test": score.digest,
                "samples": self.args.empathy_eval_samples,
                "seed": self.args.empathy_seed,
                "threshold": self.selector.threshold,
                "ties": self.selector.ties,
                **options,
                "ee-trl": __version__,
            }

            def work(folder: Path, stage: Stage = stage, name: str = name) -> None:
                rows, quadrants = self._held_out
                found = evaluate_folder(stage.folder, rows, quadrants, label=name, **options)
                write_json(folder / "evaluation.json", found)
                gc.collect()

            done = self.stages.run(f"evaluate_{name}", inputs, work)
            evaluated[name] = json.loads((done.folder / "evaluation.json").read_text(encoding="utf-8"))
        selection = json.loads((select.folder / "selection.json").read_text(encoding="utf-8"))
        if self.state.is_main_process:
            write_side_by_side(
                self.folder,
                evaluated,
                selection=selection,
                router=router.folder,
                rows=self._held_out[0],
                made_by=made_by,
            )
        return self.folder / "report.md"


def _digests(stages: Mapping[str, Stage]) -> dict[str, str]:
    return {name: stage.digest for name, stage in stages.items()}


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    return {"ee-trl": __version__, **{name: version(name) for name in packages}}
