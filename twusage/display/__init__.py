"""What people see: one value, ``view.View``, from which terminal, page, report, JSON and metrics draw."""
