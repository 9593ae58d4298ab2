"""Commands that both command lines share. Imported by CLI processes only, never by a daemon."""
