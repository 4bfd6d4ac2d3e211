"""Where rows become weights: SFT, online RL, evaluation, and the tiny policy's own schooling."""
