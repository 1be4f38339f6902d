//! Continues a text with a model that has a tokenizer, in the file or next to it:
//! `cargo run -p ckpt-infer --example complete MODEL TEXT`.

use std::io::Write;
use std::path::Path;

use ckpt_infer::{
    Cache, Generator, KvType, LoadOptions, Model, Pool, Runner, SampleOptions, Specials, Stop, Tokenizer,
    WhenFull,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("name a checkpoint")?;
    let text = std::env::args().nth(2).ok_or("give a text")?;
    let pool = Pool::new(std::thread::available_parallelism()?.get());
    let checkpoint = ckpt_inspect::open(Path::new(&path))?;
    let model = Model::load(&checkpoint, &LoadOptions::default(), &pool)?;
    let tokenizer = Tokenizer::of(&checkpoint)?.ok_or("no tokenizer lies beside the checkpoint")?;
    tokenizer.check(model.config().vocab_size)?;

    let prompt = tokenizer.prompt(&text, Specials::AsText)?;
    let mut stream = tokenizer.stream(&prompt, false);
    let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
    let mut runner = Runner::new(&model, &pool);
    let mut stop = Stop::after(32);
    stop.ids = tokenizer.stops().to_vec();
    let mut generator = Generator::new(&mut runner, &mut cache, &SampleOptions::default(), stop);
    print!("{text}");
    generator.run(&prompt, &mut |token| {
        print!("{}", stream.push(token.id).escape_default());
        std::io::stdout().flush().is_ok()
    })?;
    println!("{}", stream.finish().escape_default());
    Ok(())
}
