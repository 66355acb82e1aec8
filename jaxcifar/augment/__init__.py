"""What happens to images inside the compiled step, and test-time views."""
