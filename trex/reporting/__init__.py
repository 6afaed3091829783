"""The report: tables, charts and a web page that compare runs."""
