"""Domains, accounts, addresses and credentials: who owns mail, and which address leads to whom."""
