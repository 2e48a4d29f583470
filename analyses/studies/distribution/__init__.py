"""What a mixture or a corpus is like: its page, samples of it, and the comparison of two."""
