"""What runs once per job: keeps its state in the store, asks the policy, and tells the agents what to do."""
