//! Writes a checkpoint as SafeTensors and compares what was written:
//! `cargo run -p ckpt-convert --example safetensors MODEL OUTPUT.safetensors`.

use std::path::Path;

use ckpt_convert::{Control, Options, Plan, Target, verify_written, write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (from, to) = args.next().zip(args.next()).ok_or("name a checkpoint and an output")?;
    let (from, to) = (Path::new(&from), Path::new(&to));
    let source = ckpt_inspect::open(from)?;
    let options = Options::new(Target::SafeTensors);
    let mut plan = Plan::new(&source, &options)?;
    let stop = Default::default();
    let written = write(&mut plan, &options, to, Control::new(&|_| (), &stop))?;
    for note in &plan.notes {
        println!("note: {}", ckpt_inspect::printable(&note.to_string()));
    }
    let report = verify_written(&plan, to)?;
    println!(
        "{} bytes, {} tensors, {} of them differ",
        written.bytes,
        report.tensors.len(),
        report.failures().count()
    );
    Ok(())
}
