"""What should happen to a job when a node joins, a worker dies or a hang is seen? Pure: time is an argument.

The controller and a simulator drive the same `decide`; every decision carries its reason in a sentence.
"""

from nebula.elastic.policy.decide import decide as decide
from nebula.elastic.policy.values import Decision as Decision
from nebula.elastic.policy.values import JobState as JobState
from nebula.elastic.policy.values import Limits as Limits
