"""Evaluation of an experiment: scores, forgetting, controls, diagnoses. Numbers out of numbers."""
