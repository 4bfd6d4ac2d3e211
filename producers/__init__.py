"""Where records enter: problems for the search, prompts for RL."""
