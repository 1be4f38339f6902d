//! Writes the files to begin with into `corpus/`, a folder for each target.

fn main() -> std::io::Result<()> {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in ckpt_fuzz::TARGETS {
        let folder = corpus.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for seed in (target.seeds)() {
            std::fs::write(folder.join(seed.name), seed.bytes)?;
        }
    }
    Ok(())
}
