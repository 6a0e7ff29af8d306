"""Commands and recipes turn off what libraries report of a run; `import ee_trl` leaves a script's settings alone."""

from __future__ import annotations

import os


REPORTS_OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub: TRL's trainers report the architecture, GPU and world size
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets and evaluate: each use of a data set or a metric is counted
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers: a bot of the hub is asked to convert a model's old weights
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray: a cluster reports its libraries and hardware
}
"""Environment variables that libraries read when they are imported, and the value that turns their reports off."""


def turn_off() -> None:
    """Turns the reports off, except where the user has set the variable; call it before the libraries are imported."""
    for name, value in REPORTS_OFF.items():
        os.environ.setdefault(name, value)
