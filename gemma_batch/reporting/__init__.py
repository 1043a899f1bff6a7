"""Reporting: shows a run to people: progress, alerts, metrics, report, page, status.

`progress`, `alerts` and `accounts` run in the driver. `metrics` runs in the driver and in the GPU
actor. `report`, `page`, `cost` and `status` also run on any machine that reads the output.
"""
