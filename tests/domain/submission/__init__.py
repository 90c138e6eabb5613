"""Submission: logging in, and what becomes of what is sent."""
