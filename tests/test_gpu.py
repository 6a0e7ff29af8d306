"""What only a GPU can show; skipped elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


OPTIONS: list[dict[str, Any]] = [
    {"dtype": "float32"}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"quantization": "nf4"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_a_judge_on_the_gpu_takes_the_tree_and_agrees_with_the_cpu(options: dict[str, Any], tmp_path: Path) -> None:
    rows = load_sample().select(range(20)).to_list()
    dialogues = [s.dialogue for s in samples_of(FORMATS["messages"], rows) if s.dialogue]
    folder = saved(tmp_path / "judge", family="llama64")
    cpu = CausalLMScorer(folder, rubric=RUBRIC, dtype="float32", device_map="cpu")
    gpu = CausalLMScorer(folder, rubric=RUBRIC, **options)
    assert gpu.model.device.type == "cuda"
    assert gpu.takes_tree
    assert gpu.tree.packed, gpu.tree.why_not_packed
    assert gpu.tree.ahead == 1
    assert np.corrcoef(cpu.score(dialogues).ravel(), gpu.score(dialogues).ravel())[0, 1] > 0.5
    gpu.token_budget = 400  # many batches, each started before the answers of the last are read
    packed, gpu.tree.packed = gpu.score(dialogues), False
    padded = gpu.score(dialogues)
    assert np.corrcoef(packed.ravel(), padded.ravel())[0, 1] > 0.98
    if options == {"dtype": "float32"}:
        np.testing.assert_allclose(packed, padded, atol=1e-3)
