"""Options that commands of ``device-sim`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ScenarioArgument = Annotated[
    Path, typer.Argument(metavar="SCENARIO", help="A TOML file; see docs/scenario.md.")
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", min=0, help="Instead of the scenario's; of everything random."),
]
