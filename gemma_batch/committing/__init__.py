"""Committing: the output as state: parts, errors, ledger, manifest, lease, generations."""
