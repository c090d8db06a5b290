"""The three hops, their plan and the names of what they make; `store` keeps it, `worker` carries them out."""
