"""What happens to a job when things fail on purpose? A schedule of faults, as data, done to a running job."""
