//! Reports on checkpoints from their measurements, and the gate.
