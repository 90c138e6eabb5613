"""This installation: settings, listeners, TLS, limits, transactions, logs; leaves accounts and mail to others."""
