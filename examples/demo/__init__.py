"""`make demo`: the scenario ``examples/scenarios/demo.toml``, told while it happens.

    __main__   the command: play the scenario, show what came of it    changes   the room's change points

Everything else is ``device_sim``: any other scenario is played by ``device-sim fleet`` in the same way.
"""
