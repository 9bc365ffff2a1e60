"""Runs: what a training run is told, where it writes, and how it is driven."""
