"""Ops: how other systems start and watch a job: Ray jobs, Airflow.

It runs on the machine that submits: a laptop, an Airflow worker or an Airflow triggerer.
"""
