"""What speed, memory and quality are, measured: `python -m benchmarks.NAME`; see README.md."""
