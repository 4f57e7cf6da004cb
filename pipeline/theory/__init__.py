"""The Gaussian-mixture experiments of docs/theory.md: each measures, tabulates and claims."""
