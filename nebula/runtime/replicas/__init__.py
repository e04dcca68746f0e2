"""How do replicas train on while some of them fail and others join? Pure data parallelism over the hosts' memory.

A global batch is parted into *shards*, whose number never changes; each member of the moment works on some. Their
gradients are added in the order of one binary tree, so that the sum has the same bits whoever worked on what. A member
that is lost in the middle of a step leaves its shards to the others, who do them and finish that step.
"""
