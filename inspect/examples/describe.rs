//! Which tensors a checkpoint holds, and whether they are alive: `cargo run -p ckpt-inspect --example describe MODEL`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("name a checkpoint")?;
    let checkpoint = ckpt_inspect::open(Path::new(&path))?;
    let mut record = ckpt_inspect::describe(&checkpoint, Default::default(), &|_| ());
    ckpt_inspect::judge(&mut record, &Default::default());
    for tensor in &record.tensors {
        let std = tensor.stats.as_ref().and_then(|stats| stats.std);
        let std = std.map_or(String::new(), |std| format!("{std:.3e}"));
        let name = ckpt_inspect::printable(&tensor.name);
        println!("{name:<48} {:<8} {:?} {std}", tensor.dtype.to_string(), tensor.shape);
    }
    match record.verdict {
        Some(verdict) => println!("{verdict}"),
        None => println!("nothing in it is judged"),
    }
    Ok(())
}
