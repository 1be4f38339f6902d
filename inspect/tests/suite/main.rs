//! Checkpoints opened, measured, judged, compared, recovered and scanned, through what the crate makes public.

mod blocks;
mod cause;
mod components;
mod containers;
mod distributed;
mod elements;
mod exported;
mod floors;
mod formats;
mod gguf;
mod hostile;
mod judge;
mod judge_beginnings;
mod judge_parts;
mod judge_trained;
mod judge_values;
mod judge_whole;
mod live;
mod measure;
mod npz;
mod objects;
mod optimizer;
mod packings;
mod quantized;
mod quantized_doubts;
mod ranks;
mod salvage;
mod scan;
mod second_opinion;
mod sharded;
#[cfg(unix)]
mod staged;
mod survey;
mod verdicts;
mod vocabulary;
