"""What was decided: the plan, its file, the legality table, the schedule language."""
