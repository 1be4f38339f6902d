//! One page on the checkpoints of a run: `cargo run -p ckpt-reports --example page CHECKPOINT... > run.html`.

use std::path::Path;

use ckpt_inspect::cause::explain;
use ckpt_inspect::run::Run;
use ckpt_reports::Report;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let thresholds = Default::default();
    let mut records = Vec::new();
    for path in std::env::args_os().skip(1) {
        let checkpoint = ckpt_inspect::open(Path::new(&path))?;
        let mut record = ckpt_inspect::describe(&checkpoint, Default::default(), &|_| ());
        ckpt_inspect::judge(&mut record, &thresholds);
        records.push(record);
    }
    let runs = Run::group(records, &thresholds);
    let explanations = runs.iter().map(|run| explain(run, &[], &Default::default())).collect();
    print!("{}", ckpt_reports::html(&Report::new("Checkpoints", runs, explanations))?);
    Ok(())
}
