"""How processes start: command lines and environments for paddle.distributed.launch."""
