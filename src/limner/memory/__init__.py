"""Memory: devices, dtypes, budgets, and what is loaded where."""
