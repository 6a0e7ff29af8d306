"""Commands and recipes report nothing to the makers of their libraries; an import changes no setting."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ee_trl.telemetry import REPORTS_OFF


COMMAND = """
from ee_trl.cli.main import main
main(["cache", "size"])
"""
RECIPE = """
import sys
sys.argv = ["sft_sensibility.py", "--help"]
from ee_trl.recipes.sft_sensibility import main, make_parser
from ee_trl.training.command_line import run_recipe
run_recipe(main, make_parser)
"""
OFF = """
import sys
assert not {"huggingface_hub", "datasets", "evaluate", "ray"} & set(sys.modules)
from huggingface_hub import constants
assert constants.HF_HUB_DISABLE_TELEMETRY
from datasets import config
assert not config.HF_UPDATE_DOWNLOAD_COUNTS
"""
IMPORT = """
import os
before = dict(os.environ)
import ee_trl
assert dict(os.environ) == before
"""
CHOSEN = """
from huggingface_hub import constants
assert not constants.HF_HUB_DISABLE_TELEMETRY
"""


@pytest.mark.parametrize(
    ("script", "chosen"),
    [(COMMAND + OFF, {}), (RECIPE + OFF, {}), (IMPORT, {}), (COMMAND + CHOSEN, {"HF_HUB_DISABLE_TELEMETRY": "0"})],
    ids=["command", "recipe", "import", "chosen"],
)
def test_reports_are_off_before_a_library_is_imported(script: str, chosen: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in REPORTS_OFF}
    done = subprocess.run([sys.executable, "-c", script], env=environment | chosen, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
