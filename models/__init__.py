"""What is computed? The ERNIE 3.0 family and decoders: configs and presets (pure), Paddle layers, objectives, data."""

if __name__ != "nebula.models":
    raise ImportError("this folder is the package nebula.models: write `import nebula.models`")
