"""Export to other runtimes, comparison with PyTorch, and quantisation."""
