"""The order of a start: what devices need is there before they run."""

from __future__ import annotations

from edge_node.transport.memory import MemoryLink
from edge_node.wire.topics import Presence, subscriptions, topic_for
from tests.support.little_mesh import LittleMesh


async def test_a_link_knows_its_topics_when_it_starts(tmp_path):
    """One that connects before would be up, say so, and hear nobody."""
    known = []

    class Watched(MemoryLink):
        async def run(self):
            known.append(list(self._topics))
            await super().run()

    class Watching(LittleMesh):
        def link_of(self, name, keystore, inbox):
            return Watched(self.broker, name, inbox, will=topic_for(Presence(self.mesh_id, name)))

    async with Watching(tmp_path, ["gateway"]) as little:
        assert known == [subscriptions(little.mesh_id, "gateway")]
