"""What several suites share: small bundles, workers, trainings, a stand-in W&B server, a process to kill."""
