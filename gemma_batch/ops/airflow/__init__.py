"""Airflow: an operator that runs a spec on a Ray cluster, its trigger and its link.

Importing this package needs Airflow, but neither Ray nor vLLM: Airflow's DAG processor imports it
every few seconds.
"""

from gemma_batch.ops.airflow.link import RayJobLink
from gemma_batch.ops.airflow.operator import GemmaBatchOperator
from gemma_batch.ops.airflow.trigger import GemmaBatchTrigger

__all__ = ["GemmaBatchOperator", "GemmaBatchTrigger", "RayJobLink"]
