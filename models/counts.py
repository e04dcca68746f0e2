"""How many parameters a config has, part by part, in closed form.

The parts are those that a dry run prints apart: the matrices of each module, biases, norms, positions, embeddings and
heads. A test holds them equal to the parameters of the built layers.
"""

from __future__ import annotations

from nebula.models.config import ErnieConfig, ModuleConfig


def module_biases(module: ModuleConfig) -> int:
    """Bias elements of one module's linears: qkv 3h, out h, up ffn, down h, per layer."""
    return module.layers * (5 * module.hidden + module.ffn)


def module_norms(module: ModuleConfig) -> int:
    """Scale and shift of the two layer norms of each layer."""
    return module.layers * 4 * module.hidden


def module_positions(module: ModuleConfig, max_distance: int) -> int:
    """Relative position biases: one per head and clipped distance, per layer."""
    return module.layers * module.heads * (2 * max_distance + 1)


def parameter_counts(config: ErnieConfig) -> dict[str, int]:
    """Parameters by part; their sum is the size of the model.

    >>> from nebula.models.presets import preset
    >>> parameter_counts(preset("ernie-3.0-titan"))["universal matrices"]
    260919263232
    """
    modules = (config.universal, config.nlu, config.nlg)
    wide, narrow = config.universal.hidden, config.nlu.hidden
    biases = sum(module_biases(module) for module in modules) + 3 * narrow + config.vocabulary
    return {
        "universal matrices": config.universal.matrix_parameters,
        "nlu matrices": config.nlu.matrix_parameters,
        "nlg matrices": config.nlg.matrix_parameters,
        "biases": biases if config.biases else 0,
        "norms": sum(module_norms(module) for module in modules),
        "positions": sum(module_positions(module, config.max_distance) for module in modules),
        "embeddings": config.vocabulary * wide + 2 * wide,
        "task entry": 2 * wide + 2 * wide * narrow,
        "head": 2 * (2 * narrow) + narrow * narrow + narrow * config.vocabulary,
    }


def parameter_total(config: ErnieConfig) -> int:
    """All parameters of the model."""
    return sum(parameter_counts(config).values())
