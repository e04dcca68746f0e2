"""On what: the unified cluster object, its file, catalogue, discovery and topology."""
