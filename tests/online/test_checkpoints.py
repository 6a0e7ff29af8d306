"""What a kill leaves half written is told from a whole checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ee_trl.errors import TrainingError
from ee_trl.online.checkpoints import fault_of, newest
from ee_trl.online.state import STATE_FILE, read_state, write_state


NEEDED = (STATE_FILE,)


def whole(folder: Path, step: int) -> Path:
    """A checkpoint of two processes."""
    made = folder / f"checkpoint-{step}"
    made.mkdir()
    save_file({"w": torch.zeros(100)}, made / "model.safetensors")
    for name in ("optimizer.pt", "rng_state_0.pth", "rng_state_1.pth", "training_args.bin"):
        torch.save({"x": torch.zeros(50)}, made / name)
    write_state(made, {"plan": 1})
    (made / "trainer_state.json").write_text('{"global_step": 1}')
    return made


FILES = ["model.safetensors", "optimizer.pt", "rng_state_1.pth", STATE_FILE, "trainer_state.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_cut_file_is_found(name: str, share: float, tmp_path: Path) -> None:
    one, other = whole(tmp_path, 9), whole(tmp_path, 10)
    assert newest(tmp_path, 2, NEEDED) == (str(other), {})
    content = (other / name).read_bytes()
    (other / name).write_bytes(content[: int(share * len(content))])
    assert newest(tmp_path, 2, NEEDED) == (str(one), {other: f"its {name} is damaged"})
    (one / name).write_bytes(content[: int(share * len(content))])
    assert newest(tmp_path, 2, NEEDED) == (None, dict.fromkeys((other, one), f"its {name} is damaged"))
    if name == STATE_FILE:
        with pytest.raises(TrainingError, match="is damaged, so the policy cannot go on"):
            read_state(other)


@pytest.mark.parametrize("name", ["rng_state_1.pth", STATE_FILE, "trainer_state.json"])
def test_a_missing_file_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-11").touch()
    made = whole(tmp_path, 10)
    (made / name).unlink()
    assert newest(tmp_path, 2, NEEDED) == (None, {made: f"it has no {name}"})
    assert (fault_of(made, 2) is None) == (name == STATE_FILE), "a checkpoint of a training without a policy has none"


def test_weights_alone_are_whole_too(tmp_path: Path) -> None:
    made = whole(tmp_path, 1)
    for name in ("optimizer.pt", "rng_state_0.pth", "rng_state_1.pth"):
        (made / name).unlink()
    assert fault_of(made, 2) is None
