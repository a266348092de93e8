"""What Fairway adds to a LocalStack without a licence."""
