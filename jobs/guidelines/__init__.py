"""Guidelines as data: tables, and the program that joins them to the rows of a job."""
