//! Tensors that are larger than what is gathered in memory at a time.

use ckpt_convert::{Control, Options, Plan, Target, verify_written, write};
use ckpt_inspect::open;
use ckpt_kit::tensor::Tensor;
use ckpt_kit::torch;

/// A deflated storage is inflated as a whole, so that it is not asked for in parts.
#[test]
fn a_large_tensor_of_a_deflated_archive_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("model.pt"), folder.path().join("model.safetensors"));
    let values: Vec<f32> = (0..5u32 << 20).map(|i| (i % 251) as f32).collect();
    let tensor = Tensor::new("weight", &[5 << 10, 1 << 10], values);
    let mut entries = torch::entries(&torch::object(std::slice::from_ref(&tensor), &[]), &[tensor.bytes()]);
    entries.iter_mut().for_each(|entry| entry.deflated = true);
    std::fs::write(&from, ckpt_kit::zip::zip(&entries)).unwrap();

    let source = open(&from).unwrap();
    let options = Options::new(Target::SafeTensors);
    let mut plan = Plan::new(&source, &options).unwrap();
    write(&mut plan, &options, &to, Control::new(&|_| (), &Default::default())).unwrap();
    assert!(verify_written(&plan, &to).unwrap().agrees());
    let written = open(&to).unwrap();
    assert_eq!(written.values(written.tensor("weight").unwrap()).unwrap(), tensor.values);
}
