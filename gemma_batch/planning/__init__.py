"""Planning: everything that is known before money is spent (driver, laptop or submitter).

A run plans in the driver, the command `plan` on a laptop, and a submission on the machine that
submits the job (a laptop or an Airflow worker). Planning writes nothing into the output.
"""
