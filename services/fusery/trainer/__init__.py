"""The training job: continual training of the target on documents and the evidence of the sources."""
