"""From numbers to the terminal, CSV files and TensorBoard."""
