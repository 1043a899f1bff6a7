"""Reporting: what people see of a run: progress, alerts, metrics, report, page, status."""
