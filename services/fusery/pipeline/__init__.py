"""The run: plan, coordinator, and the executors that carry it out."""
