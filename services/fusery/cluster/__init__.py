"""A run in a Kubernetes cluster: its objects as plain data, and the few words with the API that a run needs."""
