"""`python -m sweeps.leaderboard`: recipes by final score, with intervals and paired tests. docs/leaderboard.md"""
