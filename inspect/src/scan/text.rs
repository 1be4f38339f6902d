//! Text that is executed: TorchScript's code, and the chat templates of language models.

/// Calls of TorchScript that reach files, and what they do. The names are those of serialized code, where operators of
/// ATen are functions of `torch`.
const CALLS: [(&str, &str); 6] = [
    ("torch.save(", "writes a file"),
    ("torch.load(", "reads a file"),
    ("torch.from_file(", "maps a file"),
    ("torch._export(", "writes a file"),
    ("torch.open(", "opens a file"),
    ("torch.file(", "opens a file"),
];

/// Libraries of operators that come with PyTorch.
const OPERATORS: [&str; 13] = [
    "aten",
    "prim",
    "prims",
    "quantized",
    "sparse",
    "mkldnn",
    "mkldnn_prepacked",
    "prepacked",
    "xnnpack",
    "torchvision",
    "torchaudio",
    "inductor",
    "_quantized",
];

/// What TorchScript code does beyond arithmetic, with the offset of each.
pub(super) fn script(code: &str) -> Vec<(u64, String)> {
    const MOST: usize = 100;
    let mut found = Vec::new();
    let stands_alone =
        |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
    for (call, what) in CALLS {
        let hits = code.match_indices(call).filter(|(at, _)| stands_alone(*at));
        found.extend(
            hits.take(MOST).map(|(at, _)| (at as u64, format!("{} {what}", call.trim_end_matches('(')))),
        );
    }
    for (at, _) in code.match_indices("ops.").filter(|(at, _)| stands_alone(*at)).take(MOST) {
        let library: String =
            code[at + 4..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !library.is_empty() && !OPERATORS.contains(&library.as_str()) {
            found.push((at as u64, format!("calls the operators of `{}`", super::pickles::cut(&library))));
        }
    }
    found.sort();
    found
}

/// What leads out of a Jinja template: the attributes that every attack on a template engine goes through.
pub(super) fn template(text: &str) -> Option<&'static str> {
    const STEPS: [&str; 16] = [
        "__class__",
        "__mro__",
        "__base__",
        "__bases__",
        "__subclasses__",
        "__globals__",
        "__builtins__",
        "__import__",
        "__init__",
        "__getattribute__",
        "__dict__",
        "__code__",
        "_TemplateReference__context",
        "os.popen",
        "os.system",
        "|attr(",
    ];
    STEPS.into_iter().find(|step| text.contains(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_reaches_files_is_distinguished_from_code_that_computes() {
        let code = "def forward(self, x: Tensor) -> Tensor:\n  y = torch.add(x, 1)\n  _0 = ops.prim.data(y)\n  self.torch.save(y)\n";
        assert_eq!(script(code), []);
        let code = "  torch.save(x, \"/etc/passwd\")\n  z = ops.evil.run(x)\n";
        let found = script(code);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].0, 2);
    }

    #[test]
    fn templates() {
        assert_eq!(template("{% for m in messages %}{{ m['role'] }}{% endfor %}"), None);
        assert!(template("{{ ''.__class__.__mro__[1].__subclasses__() }}").is_some());
    }
}
