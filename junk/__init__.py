"""The verdict on incoming mail, and how it is learnt from what users do with theirs."""
