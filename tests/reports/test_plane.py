"""Pictures of the score plane: their formats, what they say, and nothing to draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ee_trl.errors import EmpathyError
from ee_trl.reports.plane import plot_loss, plot_plane, plot_sweep
from ee_trl.selection import sweep


SCORES = np.array([8.0, 2.0, 7.0, 3.0, 5.0, np.nan]), np.array([2.0, 8.0, 7.0, 3.0, 2.0, np.nan])


@pytest.mark.parametrize("name", ["plane.png", "plane.svg", "deep/er/plane.pdf"])
def test_plane_is_drawn_in_each_format(name: str, tmp_path: Path) -> None:
    path = plot_plane(*SCORES, (5.0, 4.0), tmp_path / name)
    assert path.stat().st_size > 1000


def test_plane_says_counts_shares_and_threshold(tmp_path: Path) -> None:
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}):  # text as text, so that it can be read back
        svg = plot_plane(*SCORES, 5.0, tmp_path / "plane.svg").read_text()
    for said in ("5 samples, T = 5", "sensibility 20.0%", "rationality 20.0%", "balanced 20.0%", "low 20.0%"):
        assert said in svg


@pytest.mark.parametrize("scores", [([], []), ([np.nan], [np.nan])])
def test_nothing_to_draw_is_drawn_empty(scores: tuple[list, list], tmp_path: Path) -> None:
    plot_plane(*scores, 5.0, tmp_path / "a.png")
    plot_sweep(*scores, sweep(*scores), tmp_path / "b.png")
    plot_loss([], tmp_path / "c.png")


def test_an_unknown_picture_format_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(EmpathyError, match="valid: .png, .svg, .pdf"):
        plot_plane(*SCORES, 5.0, tmp_path / "plane.bmp")
