"""Runs a plan at reduced width on emulated devices of its cluster, before anybody rents the devices.

What decides whether a plan runs is kept: its stages, degrees, schedule, ranks and network. Reduced are the width of the
model, and what a host cannot hold: replicas beyond two and micro-batches beyond the steady state.
"""
