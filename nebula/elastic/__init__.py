"""How does a training go on while machines fail, join and differ? A controller, an agent on every node, and a store.

What is decided stands in nebula.elastic.policy, which knows no socket, clock or process; the rest carries it out.
"""
