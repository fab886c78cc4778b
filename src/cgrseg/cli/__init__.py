"""The `cgrseg` command: one file a verb, each thin: parse, call, print."""
