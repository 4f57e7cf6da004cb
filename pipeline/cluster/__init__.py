"""Ray: beside sweeps/execution, the only room that imports it."""
