"""Studies: what is learned from data and runs, as tables, figures and pages."""
