"""Figures: the only room that imports matplotlib.

plots        the plots of a run
image_grids  images as one picture
style        colours, markers and the empty figure
"""
