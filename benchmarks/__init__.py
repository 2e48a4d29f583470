"""Speed claims, each measured against a peer in the same run: `python -m benchmarks` lists them."""
