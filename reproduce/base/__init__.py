"""What every part of the project may use, and that uses none of them."""
