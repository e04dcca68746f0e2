"""Scripts that the launcher starts in every rank."""
