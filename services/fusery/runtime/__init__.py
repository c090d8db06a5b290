"""What every process needs: errors, settings, logs, traces, children, signals, text that is read and shown."""
