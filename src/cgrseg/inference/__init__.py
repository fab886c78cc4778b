"""Photo in, picture out: from a file, folder, array or video to label maps, overlays and masks."""
