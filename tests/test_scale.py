"""Memory stays flat: a million rows are scored and selected, parquet in and out, within 1.5 GB."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_a_million_rows_within_a_gigabyte_and_a_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from scale import measure

    for what, found in measure(1_000_000, tmp_path).items():
        assert found["peak_mib"] <= 1_430, f"{what}: {found}"  # 1.5 GB are 1,430 MiB
