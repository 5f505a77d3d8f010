"""What ``manage.py benchsale`` measures, and how.

`run` puts the measurements together; the `race` is the first of them. The load comes from a `crowd` with one
of the `loads` (in a process of its own, see `crowd_process`) and from `wrk`; `service`, `references` and
`database_alone` are what it meets; `verdict` judges, `report` and `chart` show.
"""
