"""Runs compared: the Markdown table, and the report with pictures."""
