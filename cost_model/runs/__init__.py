"""Measured runs: read from a file, expressed as graph, cluster, plan and execution, and held against predictions."""
