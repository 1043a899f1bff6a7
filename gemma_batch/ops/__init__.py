"""How other systems start a job: Ray jobs, Airflow."""
