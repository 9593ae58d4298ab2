"""The console's pages, one file each."""

from gateway.console.pages import (
    events,
    functions,
    join,
    mesh,
    node,
    nodes,
    placement,
    settings,
    state,
    task,
    tasks,
    why,
)

PAGES = (
    *mesh.PAGES,
    *nodes.PAGES,
    *node.PAGES,
    *functions.PAGES,
    *join.PAGES,
    *state.PAGES,
    *settings.PAGES,
    *tasks.PAGES,
    *task.PAGES,
    *placement.PAGES,
    *events.PAGES,
    *why.PAGES,
)
