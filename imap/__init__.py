"""The IMAP server: speaks IMAP4rev2 and IMAP4rev1, holds no policy. Mail is the store's, logins are those of accounts.

``server`` names the services, ``connection`` runs one connection, ``commands`` is the table of commands; each command
is parsed and carried out in the module of its subject. ``docs/flow.md`` tells what happens in which order.
"""
