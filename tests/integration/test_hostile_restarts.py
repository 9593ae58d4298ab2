"""A nonce is never used twice, however often a member is killed; `make faults` kills a thousand times."""

from __future__ import annotations

import pytest

from tests.faults import f16_nonces

pytestmark = pytest.mark.slow


async def test_no_nonce_is_used_twice_over_restarts_by_kill(tmp_path):
    await f16_nonces.killed_and_sealing_on(tmp_path, seed=16, count=25)
