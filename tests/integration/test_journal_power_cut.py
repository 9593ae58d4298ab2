"""The real journal's SQLite under power cuts: what was told as persisted is on every disk that is left."""

from __future__ import annotations

import pytest

from tests.faults import f04_power_cut


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_pages", [30, 1000])
def test_what_was_told_survives_a_power_cut_at_any_write_or_sync(tmp_path, checkpoint_pages):
    f04_power_cut.cut(tmp_path, checkpoint_pages, 40, checkpoint_pages=checkpoint_pages)
