"""What the product says about itself: every metric, listed once."""
