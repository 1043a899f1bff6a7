"""Airflow: an operator that runs a spec on a Ray cluster, its trigger and its link.

Importing it needs Airflow, and neither Ray nor vLLM: a DAG processor parses it every few seconds.
"""

from gemma_batch.ops.airflow.link import RayJobLink
from gemma_batch.ops.airflow.operator import GemmaBatchOperator
from gemma_batch.ops.airflow.trigger import GemmaBatchTrigger

__all__ = ["GemmaBatchOperator", "GemmaBatchTrigger", "RayJobLink"]
