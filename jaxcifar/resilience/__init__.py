"""What lets a run be interrupted, resumed and trusted."""
