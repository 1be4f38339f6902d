//! Checkpoints opened, measured, judged, compared, recovered and scanned, through what the crate makes public.

mod cause;
mod containers;
mod elements;
mod floors;
mod formats;
mod gguf;
mod hostile;
mod judge;
mod measure;
mod npz;
mod objects;
mod optimizer;
mod packings;
mod quantized;
mod salvage;
mod scan;
mod second_opinion;
mod sharded;
#[cfg(unix)]
mod staged;
mod survey;
mod verdicts;
mod vocabulary;
