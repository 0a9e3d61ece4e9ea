"""What all training shares: batches, optimisation, run folders, resuming, progress."""
