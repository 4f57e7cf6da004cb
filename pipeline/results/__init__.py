"""The results of a run: metrics, tables, pictures, its tracking record and its files."""
