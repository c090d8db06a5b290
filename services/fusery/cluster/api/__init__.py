"""The Kubernetes API as a run uses it: requests and refusals, watches, states in words, jobs launched and followed."""
