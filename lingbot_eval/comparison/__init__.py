"""Two runs, or two backends on the same frames, side by side: do they agree, which is faster, which needs more."""
