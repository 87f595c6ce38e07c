"""Does it learn? Simulated companies whose people ask, rate and correct; what comes of it."""
