"""Mailboxes, messages and their content, for every interface alike; it decides nothing about whether mail is wanted."""
