"""One process for each thing that is measured, so that none shares memory, threads or settings with another."""
