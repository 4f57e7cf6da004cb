"""Figures: plots of a run, images as one picture, and the colours and markers of all plots."""
