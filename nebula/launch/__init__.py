"""How do processes start? Command lines and environments for paddle.distributed.launch, emulated devices included."""

from nebula.launch.process import launch as launch
