//! Text sampled during a run, against what the saved model writes when it is run.

use crate::trainer::{settings, start};
use crate::truth::tokenizer;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use ckpt_infer::{Cache, Generator, KvType, LoadOptions, Model, Pool, Runner, SampleOptions, Stop, WhenFull};
use ckpt_train::{Event, RunFolder, Sample, Settings, Trainer};

const PROMPT: &str = "def f(";

fn sampled(folder: &Path) -> Settings {
    let data = folder.join("data.txt");
    std::fs::write(&data, "def f(x):\n    return x\n".repeat(200)).unwrap();
    settings(&data, 2006).with(|s| {
        s.data.tokenizer = Some(tokenizer(folder));
        s.data.holdout = 0.0;
        s.sample.every = 4;
        s.sample.prompt = PROMPT.into();
        s.sample.tokens = 20;
    })
}

fn samples(trainer: &mut Trainer, folder: &Path) -> Vec<(u64, Sample)> {
    let mut samples = Vec::new();
    let mut folder = RunFolder::open(folder).unwrap();
    trainer
        .run(&mut folder, &AtomicBool::new(false), &mut |event| {
            if let Event::Sample(step, sample) = event {
                samples.push((step, sample.clone()));
            }
        })
        .unwrap();
    samples
}

#[test]
fn samples_are_what_the_saved_model_writes() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("run");
    let samples = samples(&mut start(&sampled(folder.path())), &place);
    assert_eq!(samples.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2004, 2006]);
    let (_, last) = &samples[1];
    let pool = Pool::new(1);
    let checkpoint = ckpt_inspect::open(place.join("step-002006.pt")).unwrap();
    let model = Model::load(&checkpoint, &LoadOptions::default(), &pool).unwrap();
    let prompt: Vec<u32> = PROMPT.bytes().map(u32::from).collect();
    let generated = |options: &SampleOptions| {
        let mut runner = Runner::new(&model, &pool);
        let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
        let mut stop = Stop::after(20);
        stop.ids = vec![256];
        let outcome =
            Generator::new(&mut runner, &mut cache, options, stop).run(&prompt, &mut |_| true).unwrap();
        let text: Vec<u8> = outcome.ids.iter().take_while(|id| **id < 256).map(|id| *id as u8).collect();
        (String::from_utf8_lossy(&text).into_owned(), outcome.ids)
    };
    let (text, ids) = generated(&SampleOptions::default());
    assert!(!ids.is_empty() && last.greedy.starts_with(&text), "{:?} is not {text:?}", last.greedy);
    assert_eq!(last.prompt, PROMPT);
    assert_ne!(last.drawn, last.greedy);
    let metrics = std::fs::read_to_string(place.join("metrics.jsonl")).unwrap();
    let line = metrics.lines().rfind(|line| line.contains("\"sample\"")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["step"], &line["sample"]["greedy"]), (&2006.into(), &last.greedy.as_str().into()));
    let mut files = std::fs::read_dir(&place).unwrap().map(|e| e.unwrap().path());
    let events = files.find(|p| p.to_string_lossy().contains("tfevents")).unwrap();
    let events = std::fs::read(events).unwrap();
    assert!(events.windows(13).any(|w| w == b"sample/greedy"));
}

#[test]
fn the_same_run_draws_the_same_text() {
    let folder = tempfile::tempdir().unwrap();
    let settings = sampled(folder.path());
    let [one, other] = ["one", "other"].map(|name| samples(&mut start(&settings), &folder.path().join(name)));
    assert_eq!(one, other);
}

#[test]
fn what_cannot_be_sampled_is_refused_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let error = |change: &dyn Fn(&mut Settings)| {
        let settings = sampled(folder.path()).with(|s| change(s));
        start(&settings).prepare().err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(error(&|s| s.sample.prompt.clear()), "", "a document begins after the token that ends one");
    assert!(error(&|s| s.sample.prompt = "x".repeat(5000)).contains("positions"));
    assert!(error(&|s| s.sample.temperature = 0.0).contains("temperature"));
    let data = crate::trainer::write_ids(folder.path(), 23, 24);
    let ready_made = |s: &mut Settings| {
        s.data.files = vec![data.clone()];
        s.data.tokenizer = None;
    };
    assert!(error(&ready_made).contains("tokenizer"));
}
