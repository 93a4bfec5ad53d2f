"""What people look at, made from the cells."""
