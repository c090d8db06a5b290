"""MLflow: the tracked run and the registered version of a fused model. Nothing else imports mlflow."""
