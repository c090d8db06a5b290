"""What follows the hops: training, measuring, the report, registration."""
