"""Models of OpenCLIP: by name, with maps before any training."""
