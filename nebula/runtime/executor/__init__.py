"""Runs plans whose stages differ: every rank does its actions in the order of the schedule.

What it adds to the layers is little: activations and gradients that cross borders between unlike stages, and sums of
gradients over whoever holds a slice of a weight. fleet runs plans whose stages are alike.
"""
