"""The console's pages, one file each."""

from gateway.console.pages import nodes

PAGES = (*nodes.PAGES,)
