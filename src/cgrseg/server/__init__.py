"""The HTTP server (`cgrseg serve`)."""
