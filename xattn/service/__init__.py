"""What the page, the command line and other programs call: search, samples, and JSON of results."""
