"""Show trainings to people: progress, tables, plots, comparisons. This package changes no model and no metric."""
