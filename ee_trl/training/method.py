"""The whole method: score, select, train experts and baselines, compose, train the router, evaluate side by side."""

from __future__ import annotations

import copy
import dataclasses
import gc
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import PartialState
from trl import ModelConfig, SFTConfig

from ..axes import RATIONALITY, SENSIBILITY
from ..data.samples import read_scores
from ..data.tables import tables_of, write_file
from ..display import Code, Heading, Markup, Table, Title
from ..evaluation.eval_set import EvalSet, read_eval_set
from ..evaluation.measures import check_libraries
from ..files import package_versions, read_json, write_json, write_text
from ..moe.checkpoint import digest, resolve_folder
from ..moe.compose import average_experts, compose_moe
from ..moe.routing_report import PICTURE, RECORD, group_table
from ..moe.training import ATTENTION
from .arguments import ExpertArguments, MoEArguments, PipelineArguments
from .data import (
    EVERYTHING,
    choose,
    content_of,
    draw_plane,
    held_out,
    open_parts,
    read_rows,
    score_together,
    with_scores,
)
from .expert import SELECTION_DIR, ExpertRun
from .report import ALL, METRICS, examples, measure_model, metrics_table, picture, write_page
from .router import MoERun
from .run import identity_of
from .stages import Stage, Stages


EXPERTS = (SENSIBILITY, RATIONALITY)
UNION, BASE, ROUTER = "union", "base", "router"
_OF_A_BASE = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
"""What identifies a given base: weights, settings, tokenizer and chat template."""
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
_VERSION = package_versions("ee-trl")


class EfficientEmpathy:
    """One run of the whole method, and its folder; TRL's arguments are the experts'. Without a model, trains one."""

    def __init__(self, args: PipelineArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
        if args.empathy_eval_replies:
            check_libraries(METRICS)
        self.args, self.training_args, self.model_args = args, training_args, model_args
        self.state = PartialState()
        self.folder = Path(training_args.output_dir or "trainer_output").resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stages = Stages(self.folder, self.state)
        self.selector = args.make_selector()
        self.base_name: str | None = None  # the experts' name for their base; by default its folder

    def run(self) -> None:
        """Does every stage whose results are not there yet, and writes the report."""
        score = self._score()
        select = self._select(score)
        base = self._base(score)
        experts = {name: self._expert(name, select, base) for name in (*EXPERTS, UNION)}
        pair = {name: experts[name] for name in EXPERTS}
        average = self._average(pair, base)
        composed = self._compose(pair, base, select)
        data, own = score.folder / "train.parquet", self.args.mapping("router_training")
        router = self._train(ROUTER, data, score.digest, own, composed)
        models = {BASE: base, **experts, "average": average, "moe_start": composed, "moe": router}
        evaluated = {name: self._evaluate(name, model, score) for name, model in models.items()}
        if self.state.is_main_process:
            print(f"Report: {self._report(evaluated)}")
        self.state.destroy_process_group()

    def _score(self) -> Stage:
        """Scores the dialogues to train on and the held-out dialogues."""
        args = self.args
        inputs = {
            "dataset": content_of(args.datasets or args.dataset),
            "dataset_test": content_of(args.empathy_dataset_test) if args.empathy_dataset_test else None,
            "splits": [args.dataset_config, args.dataset_train_split, args.dataset_test_split, args.empathy_holdout],
            "holdout_seed": args.empathy_seed if args.draws_holdout else None,
            "scorer": self.selector.scorer.fingerprint,
            "turns": self.selector.turns,
            **{name: value for name, value in args.reading_options().items() if value},
            **_VERSION,
        }

        def work(folder: Path) -> None:
            for name, part in open_parts(args).items():
                scored = with_scores(part, self.selector, self.state, args.empathy_max_unscored)
                if self.state.is_main_process:
                    path = folder / f"{name}.parquet"
                    write_file(tables_of(scored), scored.features, path, metadata={"part": name})

        done = self.stages.run("score", inputs, work, together=score_together(self.selector, self.state))
        self.selector = args.make_selector()  # frees a judge's weights
        return done

    def _select(self, score: Stage) -> Stage:
        """Writes the set of each expert, their union, and why the rest was left out."""
        selector = self.selector
        rule = {name: value for name, value in self.args.rule_options().items() if name != "keep"}
        inputs = {"score": score.digest, "threshold": selector.threshold, "ties": selector.ties, **rule}

        def work(folder: Path) -> None:
            scored = read_rows(score.folder / "train.parquet")
            summary, scores = selector.summary(scored), read_scores(scored)
            counts: dict[str, dict[str, int]] = {}
            for name, keep in {**{axis: axis for axis in EXPERTS}, UNION: ",".join(EXPERTS)}.items():
                chosen = choose(scored, selector, {**rule, "keep": keep})
                counts[name] = chosen.counts()
                features, tables = selector.select_tables(scored, chosen)
                write_file(tables, features, folder / f"{name}.parquet", metadata={"settings": chosen.settings})
            write_text(folder / "summary.txt", f"{summary}\n")
            draw_plane(scores, selector, folder / "plane.png")
            record = {
                "samples": len(scores.sensibility),
                "sets": {name: own["kept"] for name, own in counts.items()},
                "counts": counts,
                "threshold": list(selector.threshold),
                "scorer": list(scores.scorers),
                "summary": summary.to_dict(),
            }
            write_json(folder / "selection.json", record)

        return self.stages.run("select", inputs, work)

    def _base(self, score: Stage) -> Stage:
        """The given model; without one, a tiny one that is trained on all dialogues first."""
        given = self.model_args.model_name_or_path
        if given:
            folder = resolve_folder(given, self.model_args.model_revision).resolve()
            self.base_name = str(folder) if Path(given).is_dir() else given
            return Stage(BASE, folder, digest(folder, _OF_A_BASE))
        return self._train(
            BASE, score.folder / "train.parquet", score.digest, self.args.mapping("base_training"), None
        )

    def _expert(self, name: str, select: Stage, base: Stage) -> Stage:
        path, steps = select.folder / f"{name}.parquet", self.training_args.max_steps
        own = {"max_steps": len(EXPERTS) * steps} if name == UNION and steps > 0 else {}  # as both experts do
        return self._train(name, path, content_of(str(path)), own, base)

    def _train(self, name: str, data: Path, content: str, own: Mapping[str, Any], model: Stage | None) -> Stage:
        """Trains on all rows of a file as a stage; the run resumes by itself."""
        arguments = self._arguments(MoEArguments if name == ROUTER else ExpertArguments, name, data)
        training, models = dataclasses.replace(self.training_args, **own), self._model_args(name, model)
        inputs = {
            "data": content,
            "model": model.digest if model else "tiny",
            "processes": self.state.num_processes,
            "threshold": [arguments.empathy_threshold, arguments.empathy_ties],
            "versions": {**_VERSION, **package_versions(*_LIBRARIES)},
            **identity_of(training, models),
            **({"join_turns": True} if self.args.empathy_join_turns else {}),
        }
        inputs.pop("model.model_name_or_path")
        kind = MoERun if name == ROUTER else ExpertRun

        def work(folder: Path) -> None:
            kind(arguments, dataclasses.replace(training, output_dir=str(folder)), models).run(end=False)
            gc.collect()

        return self.stages.run(name, inputs, work, together=True)

    def _arguments(self, kind: type[ExpertArguments], name: str, data: Path) -> ExpertArguments:
        """The run's own arguments, changed to train on all rows of a file."""
        own = {field.name: getattr(self.args, field.name) for field in dataclasses.fields(ExpertArguments)}
        if name == BASE:  # the threshold does not matter
            own |= {option: getattr(ExpertArguments(), option) for option in ("empathy_threshold", "empathy_ties")}
        own |= {"dataset": str(data), "dataset_train_split": "train", "empathy_rule": "threshold"}
        own |= dict.fromkeys(("datasets", "test_split_size", "dataset_config", "dataset_test_split"))
        own |= {f"empathy_{name}": None for name in ("n", "fraction", "axis", "control", "encoding", "map")}
        return kind(**own | {"empathy_keep": EVERYTHING})

    def _model_args(self, name: str, model: Stage | None) -> ModelConfig:
        models, lora = copy.deepcopy(self.model_args), self.args.empathy_attention_lora_r
        models.model_name_or_path = str(model.folder) if model else None
        if model is not None and model.name == BASE:
            models.model_name_or_path = self.base_name or str(model.folder)
        if name == BASE:
            models.use_peft = False
        elif name == ROUTER:
            models.use_peft = bool(lora)
            models.load_in_4bit = models.load_in_8bit = False
            models.lora_target_modules = list(ATTENTION) if lora else None
            models.lora_r, models.lora_alpha = lora or models.lora_r, 2 * (lora or 1)
            models.lora_dropout = 0.0
        return models

    def _average(self, experts: Mapping[str, Stage], base: Stage) -> Stage:
        inputs = {"base": base.digest, **{name: expert.digest for name, expert in experts.items()}, **_VERSION}
        return self.stages.run("average", inputs, lambda folder: self._combine(average_experts, folder, experts, base))

    def _compose(self, experts: Mapping[str, Stage], base: Stage, select: Stage) -> Stage:
        options = self.args.mapping("moe")
        digests = {name: expert.digest for name, expert in experts.items()}
        inputs = {"base": base.digest, **digests, "gate data": select.digest, **options, **_VERSION}

        def work(folder: Path) -> None:
            data = None
            if options.get("gate_init") != "zeros":
                data = {name: read_rows(select.folder / f"{name}.parquet") for name in experts}
            self._combine(compose_moe, folder, experts, base, gate_data=data, **options)

        return self.stages.run("compose", inputs, work)

    def _combine(
        self, combine: Callable[..., Any], folder: Path, experts: Mapping[str, Stage], base: Stage, **options: Any
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # complete, but an earlier run stopped before it recorded this
        folders = {name: stage.folder for name, stage in experts.items()}
        revision = self.model_args.model_revision
        combine(self.base_name or base.folder, folders, folder, revision=revision, **options)

    @cached_property
    def _held_out(self) -> tuple[EvalSet, list[str]]:
        """Held-out dialogues and their quadrants; replies are for the first ones."""
        scored = read_rows(self.stages.done["score"].folder / "test.parquet")
        rows, quadrants = held_out(scored, self.selector, self.args.empathy_eval_samples, self.args.empathy_seed)
        return read_eval_set(rows, turns="last"), quadrants

    def _evaluate(self, name: str, model: Stage, score: Stage) -> dict[str, Any]:
        """Measures a model; see [`~ee_trl.training.report.measure_model`]."""
        args = self.args
        options: Any = {"replies": args.empathy_eval_replies, "max_new_tokens": args.empathy_max_new_tokens}
        inputs = {
            "model": model.digest,
            "test": score.digest,
            "samples": args.empathy_eval_samples,
            "seed": args.empathy_seed,
            "threshold": self.selector.threshold,
            "ties": self.selector.ties,
            **options,
            **_VERSION,
        }

        def work(folder: Path) -> None:
            write_json(folder / "evaluation.json", measure_model(model.folder, *self._held_out, label=name, **options))
            gc.collect()

        return read_json(self.stages.run(f"evaluate_{name}", inputs, work).folder / "evaluation.json")

    def _report(self, evaluated: Mapping[str, dict[str, Any]]) -> Path:
        """Writes the report: what was selected, the models side by side, how the router routes."""
        made_by = {name: stage.folder.name for name, stage in self.stages.done.items()}
        select, router = self.stages.done["select"].folder, self.stages.done[ROUTER].folder
        selection, routing = read_json(select / "selection.json"), read_json(router / RECORD)
        folders = {name: self.stages.done[name].folder / SELECTION_DIR for name in selection["sets"]}
        records = {name: read_json(folder / "selection.json") for name, folder in folders.items()}
        untrained = {name: record.get("not_trained_on", 0) for name, record in records.items()}
        selection["not_trained_on"] = untrained
        replies = {name: found.pop("replies") for name, found in evaluated.items()}
        metrics = {name: found["metrics"] for name, found in evaluated.items()}
        parts = [
            Title("Efficient-Empathy: experts, baselines and mixture side by side"),
            Heading("What was selected"),
            f"{selection['samples']:,} samples, scored by {', '.join(selection['scorer'])}, at T = "
            f"{' and '.join(f'{t:g}' for t in selection['threshold'])}.",
            Table(
                ("set", "samples", "not trained on"),
                [(name, f"{n:,}", f"{untrained[name]:,}") for name, n in selection["sets"].items()],
            ),
            picture(select / "plane.png", self.folder, "score plane"),
            Heading("Held-out perplexity"),
            f"Perplexity of the reference replies, lower is better: over {ALL} tokens, and by quadrant.",
            _perplexity_table(evaluated),
            Heading("Replies"),
            *(["Greedy, against the reference.", metrics_table(metrics)] if any(metrics.values()) else ["None."]),
            Heading("How it routes"),
            "Mean weight of each expert by quadrant, before and after the router's training.",
            group_table(routing["before"], routing["after"], "quadrant"),
            picture(router / PICTURE, self.folder, "routing"),
            *examples(self._held_out[0].dialogues, replies, 3),
            Heading("Made by"),
            Table(("stage", "folder"), [(name, Code(path)) for name, path in made_by.items()]),
        ]
        return write_page(self.folder, {"models": evaluated, "selection": selection, "stages": made_by}, parts)


def _perplexity_table(evaluated: Mapping[str, Mapping[str, Any]]) -> Table:
    samples = next(iter(evaluated.values()))["samples"]
    best = {group: min(found["perplexity"][group] for found in evaluated.values()) for group in samples}

    def shown(group: str, value: float) -> str:
        return f"{value:.3f}" if value > best[group] else Markup(f"**{value:.3f}**")

    rows = [(name, *(shown(*one) for one in found["perplexity"].items())) for name, found in evaluated.items()]
    return Table(("model", *(f"{group} (n={n:,})" for group, n in samples.items())), rows)
