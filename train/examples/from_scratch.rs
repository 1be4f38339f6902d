//! Trains a small model on text for a few steps:
//! `cargo run -p ckpt-train --example from_scratch TOKENIZER.json TEXT.txt FOLDER`.

use std::path::Path;

use ckpt_train::{Event, RunFolder, Settings, Trainer, preset};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [tokenizer, text, folder] = args.as_slice() else {
        return Err("name a tokenizer.json, a text and a folder".into());
    };
    let mut config = preset("39m").ok_or("the preset is gone")?;
    (config.num_layers, config.hidden_dim, config.mlp_hidden_dim) = (2, 64, 128);
    (config.num_heads, config.num_kv_heads, config.head_dim) = (4, 2, 16);
    (config.vocab_size, config.max_seq_len) = (1024, 128);
    let settings = Settings::default().with(|s| {
        s.steps = 10;
        s.save_every = 0;
        s.data.files = vec![text.into()];
        s.data.tokenizer = Some(tokenizer.into());
        s.data.batch = 4;
        s.data.length = 64;
    });
    let mut trainer = Trainer::new(&config, &settings)?;
    let mut folder = RunFolder::open(Path::new(folder))?;
    trainer.run(&mut folder, &Default::default(), &mut |event| match event {
        Event::Step { step, loss, .. } => println!("step {step}: loss {loss:.4}"),
        Event::Saved(path) => println!("{}", path.display()),
        _ => {}
    })?;
    Ok(())
}
