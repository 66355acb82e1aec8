"""What turns gradients into updates: optimizers, schedules, loss scaling."""
