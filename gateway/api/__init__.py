"""The gateway's one HTTP application: joining now, API and console beside it."""
