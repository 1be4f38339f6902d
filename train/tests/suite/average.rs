//! The moving average of the weights, against PyTorch's.

use crate::trainer::{resume, run, settings, start, write_ids};

use ckpt_kit::peers;
use ckpt_train::Settings;

const TORCH: &str = "
import sys, torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
folder, decay, first, last = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
saved = lambda step: torch.load(f'{folder}/step-{step:06}.pt', weights_only=True)
model = torch.nn.ParameterDict({k.replace('.', '/'): v for k, v in saved(first)['model_state_dict'].items()})
average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
for step in range(first, last + 1):
    state = saved(step)
    for k, v in state['model_state_dict'].items():
        model[k.replace('.', '/')].data.copy_(v)
    average.update_parameters(model)
ours = state['ema_state_dict']
assert list(ours) == list(state['model_state_dict'])
print(max(float((average.module[k.replace('.', '/')] - v).abs().max() / v.abs().max()) for k, v in ours.items()))
print(max(float((state['model_state_dict'][k] - v).abs().max()) for k, v in ours.items()))
";

fn averaged(steps: u64, data: &std::path::Path) -> Settings {
    settings(data, steps).with(|s| {
        s.ema = 0.8;
        s.save_every = 1;
        s.optimizer = toml::from_str("lr = 1e-2").unwrap();
    })
}

#[test]
fn the_average_is_pytorchs() {
    let folder = tempfile::tempdir().unwrap();
    let data = write_ids(folder.path(), 23, 24);
    let place = folder.path().join("run");
    run(&mut start(&averaged(2008, &data)), &place);
    let Some(python) = peers::python(&["torch"]) else { return };
    let printed = python.code(TORCH, &[place.to_str().unwrap(), "0.8", "2001", "2008"]);
    let numbers: Vec<f64> = printed.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers[0] < 1e-7, "off by {}", numbers[0]);
    assert!(numbers[1] > 1e-3, "the average is the last step's weights");
}

#[test]
fn it_goes_on_as_if_the_run_had_not_stopped_and_is_validated() {
    let folder = tempfile::tempdir().unwrap();
    let data = write_ids(folder.path(), 23, 24);
    let all = averaged(2008, &data);
    let (straight, halves) = (folder.path().join("straight"), folder.path().join("halves"));
    run(&mut start(&all), &straight);
    run(&mut start(&all.clone().with(|s| s.steps = 2004)), &halves);
    run(&mut resume(&halves.join("step-002004.pt"), &all), &halves);
    let bytes = |folder: &std::path::Path| std::fs::read(folder.join("step-002008.pt")).unwrap();
    assert!(bytes(&straight) == bytes(&halves));
    let metrics = std::fs::read_to_string(straight.join("metrics.jsonl")).unwrap();
    let losses: Vec<(f64, f64)> = metrics
        .lines()
        .filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            Some((line["validation_loss"].as_f64()?, line["ema_validation_loss"].as_f64()?))
        })
        .collect();
    assert!(losses.len() == 4 && losses.iter().all(|(own, average)| own != average), "{losses:?}");
    // A run without it goes on without it, and one that had none begins.
    run(
        &mut resume(&halves.join("step-002004.pt"), &all.clone().with(|s| s.ema = 0.0)),
        &folder.path().join("none"),
    );
    let without = folder.path().join("none/step-002008.pt");
    assert!(ckpt_inspect::open(&without).unwrap().meta("ema_state_dict").is_none());
    let on = all.clone().with(|s| s.steps = 2010);
    run(&mut resume(&without, &on), &folder.path().join("begun"));
    let begun = ckpt_inspect::open(folder.path().join("begun/step-002010.pt")).unwrap();
    assert!(begun.meta("ema_state_dict").is_some());
}

#[test]
fn a_decay_of_one_or_more_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = write_ids(folder.path(), 23, 24);
    for decay in [1.0, -0.1, f64::NAN] {
        let settings = averaged(2001, &data).with(|s| s.ema = decay);
        let checkpoint =
            ckpt_inspect::open(ckpt_kit::fixtures::fixture("healthy-run/step-02000.pt")).unwrap();
        let error = ckpt_train::Trainer::resume(&checkpoint, &settings, Default::default()).err().unwrap();
        assert!(error.to_string().contains("ema must be"), "{error}");
    }
}
