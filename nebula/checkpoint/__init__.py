"""How is a training's state kept so that no crash loses it? Files, manifest and the order in which they become real.

Knows no paddle: nebula.runtime.checkpoints says what a rank holds and where it belongs in the whole model.
"""
