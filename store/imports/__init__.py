"""Imports of mail: a source is read and staged by a worker, then all of it appears in one transaction.

    job = jobs.import_archive(account_id, file, "Takeout")      # a worker does the rest
    jobs.abort(job.token)

`sources` says what is in an archive, Maildir or mbox; `staging` stores it where nobody sees it (phase 1), `linking`
finds its threads, `completion` makes it visible (phase 2), `work` does one after the other under the lease of `jobs`.
"""
