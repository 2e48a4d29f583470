"""What programs are like, with intervals: `structure` (of the text), `behaviour` (of the run), `divergence` (of two
sources)."""
