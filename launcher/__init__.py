"""Where jobs run: one contract (`launcher.base`), several executors. Knows nothing of what a job computes."""
