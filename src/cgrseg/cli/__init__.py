"""The `cgrseg` command."""
