"""Nebula: plans, launches and adapts distributed training with PaddlePaddle on any cluster."""

__version__ = "0.1.0"
