"""The demo of an update, and the picture of the product's demo."""
