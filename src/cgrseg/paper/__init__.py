"""The paper's tables and figures: its numbers as data, ours beside them, and a study of its claims."""
