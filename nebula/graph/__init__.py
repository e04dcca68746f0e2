"""What is computed: the unified distributed graph, its capture, completion, partition and reshard."""
