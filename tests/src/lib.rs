//! What the end-to-end tests stand on: the simulated agent and the deployment harness.
