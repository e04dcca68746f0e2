"""How would jobs fare on thousands of nodes that fail? The controller's own policy, driven by a seeded trace of faults.

No clock, no process, no Paddle: what failures and recoveries take is given. Everything that comes out is simulated.
"""
