"""Committing: the output holds the whole state of a run: parts, errors, ledger, manifest, lease.

`commit` runs in the GPU actor, every other module in the driver. Commands such as `status` read
the same files from anywhere.
"""
