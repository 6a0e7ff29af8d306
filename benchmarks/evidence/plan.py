"""The plan of the runs: each run's name, options, required runs and seeds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


CORE = ("full", "sensibility", "random")
"""The rows with several seeds."""

EVERYTHING = "sensibility,rationality,balanced,low,tie"
DISCARDED = "balanced,low,tie"
REPEATED = ("union of the experts", "selected by an encoder", "selected by linear")
"""Rows of the chat model that beat random samples at no loss with one seed, so that further seeds try them again."""


@dataclass(frozen=True)
class Run:
    """
    One model of the table.

    Args:
        name (`str`): `row`, with `-1`, `-2` for further seeds.
        recipe (`str`): The recipe that trains it; `"average"` and `"compose"` make it of others, `"none"` is the base;
            `"turns"` trains on whole conversations.
        options (`dict`, *optional*): Of the recipe, where they differ from the common ones; of `"turns"` those of
            [`~ee_trl.EmpathyDataSelector.attach`], without which all replies have one weight.
        seed (`int`, *optional*, defaults to `0`): Of the order of the samples, and of which ones are drawn at random.
        steps (`float`, *optional*, defaults to `1`): Its optimizer steps, as a multiple of the table's.
        epochs (`bool`, *optional*, defaults to `False`): Whether `steps` counts epochs of its own data instead.
        base (`str`, *optional*): The run whose model it starts from; by default the common base.
        of (`tuple[str, ...]`, *optional*): The runs that it is composed or averaged from.
        data (`str`, *optional*, defaults to `"scored"`): The folder of the scored samples that it selects from.
    """

    name: str
    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    steps: float = 1.0
    epochs: bool = False
    base: str | None = None
    of: tuple[str, ...] = ()
    data: str = "scored"

    @property
    def needs(self) -> tuple[str, ...]:
        """The runs that must be finished before."""
        return (*self.of, *([self.base] if self.base else ()))


def plan(sensibility_rows: int, seeds: int = 3) -> dict[str, Run]:
    """
    All runs by name, the most important first.

    Args:
        sensibility_rows (`int`): Size of the sensibility set: random and longest-reply sets have as many samples.
        seeds (`int`, *optional*, defaults to `3`): Of the rows of [`CORE`].
    """
    expert, rationality, online = "sft_sensibility", "sft_rationality", "sft_online"
    size = {"empathy_n": sensibility_rows}
    core = {
        "full": {"empathy_keep": EVERYTHING},
        "sensibility": {},
        "random": {"empathy_rule": "random", **size},
    }
    soft = {"empathy_policy": "soft", "empathy_policy_options": {"weigh": "loss"}}
    loss_aware = {"empathy_policy": "loss_aware", "empathy_policy_options": {"weigh": "loss"}}
    experts = ("sensibility expert", "rationality expert")
    runs: list[Run] = []
    for seed in range(seeds):
        for name, options in core.items():
            drawn = {"empathy_seed": seed} if name == "random" else {}
            runs.append(Run(name if seed == 0 else f"{name}-{seed}", expert, {**options, **drawn}, seed))
    runs += [
        # the others' epochs are the table's steps already: those of the sensibility set, which random's size is, too
        Run("full, as many epochs", expert, core["full"], epochs=True),
        Run("discarded", expert, {"empathy_keep": DISCARDED}),
        Run("rationality", rationality),
        Run("longest reply", expert, {"empathy_rule": "longest", **size}),
        Run("base", expert, {"empathy_keep": EVERYTHING}, steps=0.5),
        Run("sensibility expert", expert, steps=0.5, base="base"),
        Run("rationality expert", rationality, steps=0.5, base="base"),
        Run("base, then full", expert, {"empathy_keep": EVERYTHING}, steps=0.5, base="base"),
        Run("mean of the experts", "average", base="base", of=experts),
        Run("mixture, untrained", "compose", base="base", of=experts),
        Run("mixture", "sft_moe", steps=0.125, base="mixture, untrained"),
        Run("soft gate", online, soft),
        Run("loss-aware", online, loss_aware),
        *(Run(f"T = {t}", expert, {"empathy_threshold": t}) for t in (3, 4, 6, 7)),
        Run("union of the experts", expert, {"empathy_keep": "sensibility,rationality"}, steps=0.5, base="base"),
    ]
    return {run.name: run for run in runs}


def chat_plan(sensibility_rows: int, seeds: int = 3) -> dict[str, Run]:
    """The runs of the chat model's table, the most important first; see [`plan`]. All start from the same model."""
    expert, n = "sft_sensibility", {"empathy_n": sensibility_rows}
    top, drawn = {"empathy_rule": "top", **n}, {"empathy_rule": "random", "empathy_control": "length", **n}
    core: dict[str, dict[str, Any]] = {"full": {"empathy_keep": EVERYTHING}, "sensibility": {}, "random": drawn}
    runs = [Run("before training", "none")]
    for seed in range(seeds):
        for name, options in core.items():
            own = {"empathy_seed": seed} if name == "random" else {}
            runs.append(Run(name if seed == 0 else f"{name}-{seed}", expert, {**options, **own}, seed))
    runs += [
        Run("best S of each cluster", expert, {**top, "empathy_axis": "sensibility", "empathy_control": "clusters"}),
        Run("top by S + R", expert, {**top, "empathy_axis": "sum"}),
        Run("T = 7", expert, {"empathy_threshold": 7}),
        Run("rationality", "sft_rationality"),
        Run("mean of the experts", "average", of=("sensibility", "rationality")),
        Run("mean of two random", "average", of=("random", "random-1")),  # the control of the row above
        Run("mixture, untrained", "compose", of=("sensibility", "rationality")),
        Run("mixture", "sft_moe", steps=0.25, base="mixture, untrained"),
        Run("selected by linear", expert, data="scored_linear"),
        Run("released, like length", expert, {"empathy_control": "length"}),
        Run("soft gate", "sft_online", {"empathy_policy": "soft", "empathy_policy_options": {"weigh": "loss"}}),
        Run("longest reply", expert, {"empathy_rule": "longest", **n}),
        Run("top by IFD", expert, {"empathy_rule": "top", "empathy_axis": "ifd"}, data="scored_ifd"),
        Run("union of the experts", expert, {"empathy_keep": "sensibility,rationality"}),
        Run("selected by an encoder", expert, data="scored_encoder"),
        Run("top by S", expert, {**top, "empathy_axis": "sensibility"}),
        Run("released, flagged too", expert, {"empathy_exclude": "none"}),
        Run("whole conversations", "turns"),  # the control of the row below
        Run("random, as many tokens", expert, {**drawn, "empathy_seed": 0}, steps=1.5),  # as whole conversations have
        Run("weights by turn", "turns", {"policy": "soft", "weigh": "loss", "granularity": "turn"}),
    ]
    again = [run for run in runs if run.name in REPEATED]
    runs += [replace(run, name=f"{run.name}-{seed}", seed=seed) for run in again for seed in range(1, seeds)]
    return {run.name: run for run in runs}
