"""Scores of generated images, and the features behind them."""
