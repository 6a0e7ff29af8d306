"""What only a GPU can show; skipped elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from random_judges import RUBRIC, saved

from ee_trl import CausalLMScorer, load_sample
from ee_trl.data.dialogue import samples_of
from ee_trl.data.formats import FORMATS


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantization": "int8"}, {"quantization": "nf4"}])
def test_a_judge_on_the_gpu_takes_the_tree_and_agrees_with_the_cpu(options: dict[str, str], tmp_path: Path) -> None:
    rows = load_sample().select(range(20)).to_list()
    dialogues = [s.dialogue for s in samples_of(FORMATS["messages"], rows) if s.dialogue]
    folder = saved(tmp_path / "judge", family="llama64")
    cpu = CausalLMScorer(folder, rubric=RUBRIC, dtype="float32", device_map="cpu")
    gpu = CausalLMScorer(folder, rubric=RUBRIC, **options)  # type: ignore[arg-type]
    assert gpu.model.device.type == "cuda"
    assert gpu.takes_tree
    assert np.corrcoef(cpu.score(dialogues).ravel(), gpu.score(dialogues).ravel())[0, 1] > 0.5
