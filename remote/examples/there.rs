//! What a checkpoint at a URL holds, of which only the header is fetched:
//! `cargo run -p ckpt-remote --example there hf://HuggingFaceTB/SmolLM2-135M`.

use std::path::Path;

use ckpt_remote::{Settings, stores};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("name a URL")?;
    let settings = || {
        let text = |name: std::ffi::OsString| name.into_string().ok();
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
        Settings::new(variables.collect(), std::env::home_dir())
    };
    ckpt_inspect::stored::register(stores(settings));
    let checkpoint = ckpt_inspect::open(Path::new(&url))?;
    for tensor in &checkpoint.tensors {
        let name = ckpt_inspect::printable(&tensor.name);
        println!("{name:<48} {:<8} {:?}", tensor.dtype.to_string(), tensor.shape);
    }
    Ok(())
}
