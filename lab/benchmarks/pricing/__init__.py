"""What our choices cost in acceptance and seconds: parts of the benchmarks that price them."""
