"""What runs on every node: starts workers, watches them, keeps copies of their state, and talks to the controller."""
