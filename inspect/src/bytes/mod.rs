//! The bytes floor: where bytes come from, and how they go to the disk.

pub mod staged;
