"""What people see of trainings: progress, tables, plots, comparisons. Nothing here changes a model or a metric."""
