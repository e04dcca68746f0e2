"""Runs a plan at reduced width on emulated devices of its cluster, before anybody rents the devices.

What is kept is what decides whether a plan runs: its stages, degrees, schedule, ranks and network. What is reduced is the
width of the model, and what the host cannot hold: replicas beyond two and micro-batches beyond the steady state.
"""
