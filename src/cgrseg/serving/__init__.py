"""Many at once: an HTTP server that holds, and a cluster that finishes."""
