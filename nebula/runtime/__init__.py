"""How a plan runs: fleet set-up, tensor and pipeline splits, sharding, the trainer."""
