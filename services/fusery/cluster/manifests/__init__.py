"""A run as Kubernetes manifests: names, pods, jobs, and what keeps a run out of a cluster."""
