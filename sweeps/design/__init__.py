"""What a sweep is: its settings, points, trials and their resources."""
