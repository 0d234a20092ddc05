"""How to search: a Hydra sweeper on Optuna, its studies, its controller. What runs a job lives in `launcher`."""
