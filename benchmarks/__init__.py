"""What xattn costs and finds, measured: `python -m benchmarks.NAME`; see README.md in this folder."""
