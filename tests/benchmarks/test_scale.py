"""Memory stays flat: ten times the rows take hardly more, parquet in and out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_in_the_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from scale import measure

    for name in ("small", "large"):
        (tmp_path / name).mkdir()
    sizes = {"small": 30_000, "large": 300_000}  # but for the explorer, whose page holds up to 50,000 texts
    small, large = (measure(rows, tmp_path / name, explore=False) for name, rows in sizes.items())
    for what, found in large.items():
        growth = found["anonymous_mib"] - small[what]["anonymous_mib"]
        assert growth <= 80, f"{what}: {small[what]} and {found}"  # two floats and some codes a row are 10 MiB
        assert found["anonymous_mib"] <= 600, f"{what}: {found}"
